package mutants

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"strings"
	"testing"
)

// Test_Dispatch: every kind of function can have defects, and what cannot have one is reported.
func Test_Dispatch(t *testing.T) {
	const source = `package p

import "fmt"

type set[T any] []T

func (set[T]) size(int, string) int { return 1 }

func (s *set[T]) add(a, b T, more ...T) { *s = append(*s, a, b) }

func last[T any](s []T) (r T, err error) {
	return s[len(s)-1], nil
}

var limit = 3

func print() { fmt.Println("sound") }
`
	defects := []defect{
		{number: 4, old: "return 1", new: "return 2"},
		{number: 5, old: "a, b)", new: "b, a)"},
		{number: 6, old: "return s[len(s)-1], nil\n}\n", new: "err = errors.New(\"defect\")\n\treturn r, err\n}\n", imports: "errors"},
		{number: 7, old: "s[len(s)-1]", new: "s[0]"},
		{number: 8, old: "Println", new: "Print"},
	}
	out, err := dispatch(source, defects)
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "", out, 0)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	check := types.Config{Importer: importer.ForCompiler(set, "source", nil)}
	if _, err := check.Check("p", set, []*ast.File{file}, nil); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	for _, want := range []string{"return 1", "return 2", "b, a)", `errors.New("defect")`, "s[0]", `fmt.Print("sound")`, `fmt.Println("sound")`} {
		if n := strings.Count(out, want); n != 1 {
			t.Errorf("%q occurs %d times, want once:\n%s", want, n, out)
		}
	}
	if _, err := dispatch(source, []defect{{old: "limit = 3", new: "limit = 4"}}); err == nil {
		t.Error("a variable of the package has a defect")
	}
}
