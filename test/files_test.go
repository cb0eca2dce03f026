package test

import (
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// circles are the packages whose files may use each other in a circle, with the reason.
var circles = map[string]string{
	"cluster/clustertest": "a network and its hub are the two ends of a connection",
}

// Test_Files_UseEachOtherInOneDirection fails if files of a package use each other in a circle, so
// that none of them can be read without the others. It also fails if a package of circles has none.
func Test_Files_UseEachOtherInOneDirection(t *testing.T) {
	all := list(t, "-f", `{{if .GoFiles}}{{.ImportPath}} {{.Dir}}{{range .GoFiles}} {{.}}{{end}}{{end}}`, "./...")
	all = slices.DeleteFunc(all, func(line []string) bool { return len(line) == 0 })
	args := []string{"-export", "-deps", "-f", `{{.ImportPath}} {{.Export}}`}
	for _, line := range all {
		args = append(args, line[0])
	}
	exported := map[string]string{} // files with the types of packages
	for _, line := range list(t, args...) {
		if len(line) == 2 {
			exported[line[0]] = line[1]
		}
	}
	fset := token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(pkg string) (io.ReadCloser, error) { return os.Open(exported[pkg]) })
	for _, line := range all {
		pkg := strings.TrimPrefix(line[0], module)
		circle := anyCircle(fileUses(t, fset, imports, line[1], line[2:]))
		switch _, allowed := circles[pkg]; {
		case circle != nil && !allowed:
			t.Errorf("files of %s use each other in a circle: %s", pkg, strings.Join(circle, " > "))
		case circle == nil && allowed:
			t.Errorf("files of %s use each other in one direction: remove it from circles", pkg)
		}
	}
}

// anyCircle returns a circle of files that use each other, or nil.
func anyCircle(uses map[string][]string) []string {
	for _, file := range slices.Sorted(maps.Keys(uses)) {
		if circle := circleOf(uses, file, []string{file}, map[string]bool{}); circle != nil {
			return circle
		}
	}
	return nil
}

// fileUses returns, for each file of a package, the files whose types, functions, methods, variables
// and constants it uses.
func fileUses(t *testing.T, fset *token.FileSet, imports types.Importer, dir string, files []string) map[string][]string {
	t.Helper()
	var parsed []*ast.File
	for _, f := range files {
		file, err := parser.ParseFile(fset, filepath.Join(dir, f), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, file)
	}
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	pkg, err := (&types.Config{Importer: imports}).Check(dir, fset, parsed, info)
	if err != nil {
		t.Fatal(err)
	}
	fileOf := func(p token.Pos) string { return filepath.Base(fset.Position(p).Filename) }
	uses := map[string][]string{}
	for id, object := range info.Uses {
		if _, name := object.(*types.PkgName); name || object.Pkg() != pkg {
			continue
		}
		if from, to := fileOf(id.Pos()), fileOf(object.Pos()); from != to && !slices.Contains(uses[from], to) {
			uses[from] = append(uses[from], to)
		}
	}
	return uses
}

// circleOf returns a path from the first file of a path back to it, or nil.
func circleOf(uses map[string][]string, first string, path []string, seen map[string]bool) []string {
	for _, next := range uses[path[len(path)-1]] {
		if next == first {
			return append(slices.Clone(path), first)
		}
		if seen[next] {
			continue
		}
		seen[next] = true
		if circle := circleOf(uses, first, append(path, next), seen); circle != nil {
			return circle
		}
	}
	return nil
}
