package transcript

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Test_Strings compares the texts for people in the Go code with strings.golden. They are sorted and
// do not name their package, so that the file does not change when code moves.
func Test_Strings(t *testing.T) {
	root := filepath.Join("..", "..")
	var files []*ast.File
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			// Directories of tests, tools and hidden ones hold no texts of the service.
			if path != root && (strings.HasPrefix(name, ".") || strings.HasSuffix(name, "test") || name == "testdata" || name == "tools" || name == "node_modules") {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".pb.go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err == nil && !ast.IsGenerated(f) {
			files = append(files, f)
		}
		return err
	})
	if err != nil || len(files) < 100 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	golden(t, "strings.golden", strings.Join(texts(files), "\n")+"\n", *update && *program == "")
}

// speaking are functions, by name, whose literals are for people: errors, logs, output. Functions of
// the code that take a format and arguments count as well, see formatters.
var speaking = regexp.MustCompile(`^(Errorf?|New|Newf|Warn|Info|Debug|(Warn|Info|Debug|Error)Context|S?Printf?|Println|Fprint(f|ln)?|Appendf|Panicf?|.*VarP?|checkText|checkRef|checkPath|checkGitURI|text)$`)

// fields of composite literals and struct tags that are for people.
var described = []string{"Help", "Use", "Short", "Long", "Example", "Message", "Advice", "Detail", "Reason", "Usage", "Subtitle", "Title"}

// texts returns the texts in files, sorted, each once.
func texts(files []*ast.File) []string {
	all := map[string]bool{}
	add := func(s string) {
		if letters.MatchString(s) {
			all[strconv.Quote(s)] = true
		}
	}
	formats := formatters(files)
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.CallExpr:
				if name := called(n); speaking.MatchString(name) || formats[name] {
					for _, arg := range n.Args {
						if s, ok := literal(arg); ok {
							add(s)
						}
					}
				}
			case *ast.KeyValueExpr:
				if key, ok := n.Key.(*ast.Ident); ok && slices.Contains(described, key.Name) {
					if s, ok := literal(n.Value); ok {
						add(s)
					}
				}
			case *ast.CompositeLit:
				if name, help := metric(n); name != "" {
					all["metric "+name+": "+strconv.Quote(help)] = true
				}
			case *ast.Field:
				if n.Tag != nil {
					tag, _ := strconv.Unquote(n.Tag.Value)
					add(reflect.StructTag(tag).Get("doc"))
				}
			}
			return true
		})
	}
	return slices.Sorted(maps.Keys(all))
}

// letters match a text of more than one word, or a word that is long.
var letters = regexp.MustCompile(`[a-zA-Z]{2,}[^ ]* +[^ ]*[a-zA-Z%]|[a-z]{4}`)

// called returns the name of the function or method that is called.
func called(n *ast.CallExpr) string {
	switch f := n.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		return f.Sel.Name
	}
	return ""
}

// literal returns a string literal or a sum of some, with … for parts that are no literals.
func literal(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			s, err := strconv.Unquote(e.Value)
			return s, err == nil
		}
	case *ast.ParenExpr:
		return literal(e.X)
	case *ast.BinaryExpr:
		if e.Op != token.ADD {
			return "", false
		}
		a, left := literal(e.X)
		b, right := literal(e.Y)
		if !left {
			a = "…"
		}
		if !right {
			b = "…"
		}
		return a + b, left || right
	}
	return "", false
}

// formatters returns the names of functions that take a format and arguments.
func formatters(files []*ast.File) map[string]bool {
	names := map[string]bool{}
	for _, f := range files {
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || len(fn.Type.Params.List) < 2 {
				continue
			}
			params := fn.Type.Params.List
			last, ok := params[len(params)-1].Type.(*ast.Ellipsis)
			if !ok {
				continue
			}
			before, _ := params[len(params)-2].Type.(*ast.Ident)
			elem, _ := last.Elt.(*ast.Ident)
			if before != nil && before.Name == "string" && elem != nil && elem.Name == "any" {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}

// metric returns name and help of the options of a metric.
func metric(n *ast.CompositeLit) (name, help string) {
	for _, e := range n.Elts {
		if kv, ok := e.(*ast.KeyValueExpr); ok {
			if key, ok := kv.Key.(*ast.Ident); ok {
				s, _ := literal(kv.Value)
				switch key.Name {
				case "Name":
					name = s
				case "Help":
					help = s
				}
			}
		}
	}
	if help == "" {
		name = ""
	}
	return name, help
}
