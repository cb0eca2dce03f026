// Package proto_test checks rules that all .proto files share.
package proto_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Test_EveryDeclarationHasAComment: the .proto files are the reference of the APIs, so that each
// message, field, enum value, service and method says what it means.
func Test_EveryDeclarationHasAComment(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".proto" {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, problem := range uncommented(string(text)) {
			t.Errorf("%s:%s", path, problem)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files == 0 {
		t.Error("no .proto file was found")
	}
}

func Test_Uncommented_FindsEachKindOfDeclaration(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"all have comments": {
			text: "syntax = \"proto3\";\n// S serves.\nservice S {\n  // M is called.\n  rpc M(A) returns (stream B) {}\n}\n" +
				"// A is a request.\nmessage A {\n  // kind is set.\n  oneof kind {\n    // A number.\n    int64 n = 1;\n  }\n}\n",
		},
		"message":    {text: "message A {}\n", want: []string{"1: message A has no comment"}},
		"enum":       {text: "enum E {\n  // None.\n  E_NONE = 0;\n}\n", want: []string{"1: enum E has no comment"}},
		"enum value": {text: "// E is one.\nenum E {\n  E_NONE = 0;\n}\n", want: []string{"3: enum value E_NONE has no comment"}},
		"service":    {text: "service S {}\n", want: []string{"1: service S has no comment"}},
		"method":     {text: "  rpc M(A) returns (B) {}\n", want: []string{"1: rpc M has no comment"}},
		"oneof":      {text: "  oneof kind {\n", want: []string{"1: oneof kind has no comment"}},
		"field":      {text: "  google.protobuf.Duration d = 1;\n", want: []string{"1: field d has no comment"}},
		"repeated":   {text: "  repeated A list = 12;\n", want: []string{"1: field list has no comment"}},
		"optional":   {text: "  optional string team = 5;\n", want: []string{"1: field team has no comment"}},
		"map":        {text: "  map<string, bytes> m = 3;\n", want: []string{"1: field m has no comment"}},
		"second field of a comment": {
			text: "  // Two numbers.\n  int64 a = 1;\n  int64 b = 2;\n", want: []string{"3: field b has no comment"},
		},
		"comment that is not adjacent": {text: "  // A number.\n\n  int64 a = 1;\n", want: []string{"3: field a has no comment"}},
		"comment without the name":     {text: "// The request.\nmessage A {}\n", want: []string{"2: the comment of message A does not begin with its name"}},
		"unknown statement":            {text: "  extensions 4 to 8;\n", want: []string{"1: the statement is unknown to this test: extensions 4 to 8;"}},
	} {
		if diff := cmp.Diff(c.want, uncommented(c.text)); diff != "" {
			t.Errorf("%s: -want +got\n%s", name, diff)
		}
	}
}

var (
	// named are the declarations whose comment begins with their name.
	named = regexp.MustCompile(`^(message|enum|service|rpc|oneof) (\w+)\b`)
	field = regexp.MustCompile(`^(?:optional |repeated )?(?:map<\w+, [\w.]+>|[\w.]+) (\w+) = \d+;$`)
	value = regexp.MustCompile(`^(\w+) = \d+;$`)
	other = regexp.MustCompile(`^(syntax|package|import|option|reserved)\b|^}$`)
)

// uncommented returns a problem for each declaration of a .proto file without a comment on the
// lines before it. It expects one statement a line, and line comments.
func uncommented(text string) (problems []string) {
	comment := "" // first line of the comment that ends on the line before
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if c, ok := strings.CutPrefix(line, "//"); ok {
			if comment == "" {
				comment = strings.TrimSpace(c)
			}
			continue
		}
		problem := ""
		if m := named.FindStringSubmatch(line); m != nil {
			switch {
			case comment == "":
				problem = m[1] + " " + m[2] + " has no comment"
			case !strings.HasPrefix(comment, m[2]+" "):
				problem = "the comment of " + m[1] + " " + m[2] + " does not begin with its name"
			}
		} else if m := field.FindStringSubmatch(line); m != nil {
			if comment == "" {
				problem = "field " + m[1] + " has no comment"
			}
		} else if m := value.FindStringSubmatch(line); m != nil {
			if comment == "" {
				problem = "enum value " + m[1] + " has no comment"
			}
		} else if line != "" && !other.MatchString(line) {
			problem = "the statement is unknown to this test: " + line
		}
		if problem != "" {
			problems = append(problems, fmt.Sprintf("%d: %s", i+1, problem))
		}
		comment = ""
	}
	return problems
}
