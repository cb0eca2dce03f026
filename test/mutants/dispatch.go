// Package mutants inserts defects into the source, by an overlay of the go command, and runs the tests
// that must find them.
package mutants

import (
	"cmp"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
)

// variable names the environment variable with the number of the defect that a test binary shows.
const variable = "IMAGE_BUILDER_DEFECT"

// defect is a replacement of text inside one function of a source file.
type defect struct {
	number   int
	old, new string
	imports  string // package that the defect imports in addition, or ""
}

// dispatch returns the source with all defects. Each function that has some exists once without a
// defect and once for each of them; the environment variable decides which one runs when the process
// starts. Therefore the package compiles once for all of its defects. It returns an error if the
// text of a defect is not inside one function.
func dispatch(source string, defects []defect) (string, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "", source, parser.SkipObjectResolution)
	if err != nil {
		return "", err
	}
	offset := func(p token.Pos) int { return set.Position(p).Offset }
	found := map[*ast.FuncDecl][]defect{}
	for _, d := range defects {
		begin := strings.Index(source, d.old)
		i := slices.IndexFunc(file.Decls, func(decl ast.Decl) bool {
			f, ok := decl.(*ast.FuncDecl)
			return ok && offset(f.Pos()) <= begin && begin+len(d.old) <= offset(f.End())+1 // +1: the end of the line
		})
		if begin < 0 || i < 0 {
			return "", fmt.Errorf("%q is not inside one function", d.old)
		}
		f := file.Decls[i].(*ast.FuncDecl)
		found[f] = append(found[f], d)
	}
	var imports strings.Builder
	name := func(what string) string { return "defect_" + strings.ReplaceAll(file.Name.Name, ".", "") + "_" + what }
	fmt.Fprintf(&imports, "; import defect_os %q", "os")
	for _, d := range defects {
		line := fmt.Sprintf("; import %q", d.imports)
		if d.imports != "" && !strings.Contains(source, "\t\""+d.imports+"\"\n") && !strings.Contains(imports.String(), line) {
			imports.WriteString(line)
		}
	}
	changes := []change{{offset(file.Name.End()), offset(file.Name.End()), imports.String()}}
	selected := name(fmt.Sprint(defects[0].number)) // unique in the package: numbers are
	for f, ds := range found {
		begin, end := offset(f.Pos()), offset(f.End())
		text := source[begin:end]
		out := dispatcher(source, offset, f, ds, selected) + "\n\n" + renamed(f, text, offset, "sound")
		for _, d := range ds {
			old := strings.TrimSuffix(d.old, "\n")
			replaced := strings.Replace(text, old, strings.TrimSuffix(d.new, "\n"), 1)
			out += "\n\n" + renamed(f, replaced, offset, fmt.Sprint(d.number))
		}
		changes = append(changes, change{begin, end, out})
	}
	slices.SortFunc(changes, func(a, b change) int { return cmp.Compare(b.begin, a.begin) })
	for _, c := range changes {
		source = source[:c.begin] + c.text + source[c.end:]
	}
	return source + fmt.Sprintf("\nvar %s = defect_os.Getenv(%q)\n", selected, variable), nil
}

// change replaces a part of a source.
type change struct {
	begin, end int
	text       string
}

// renamed returns the text of a function under another name.
func renamed(f *ast.FuncDecl, text string, offset func(token.Pos) int, suffix string) string {
	at := offset(f.Name.End()) - offset(f.Pos())
	return text[:at] + "_" + suffix + text[at:]
}

// dispatcher returns a function that calls the one with the selected defect.
func dispatcher(source string, offset func(token.Pos) int, f *ast.FuncDecl, ds []defect, selected string) string {
	text := func(n ast.Node) string { return source[offset(n.Pos()):offset(n.End())] }
	var b strings.Builder
	b.WriteString("func ")
	receiver := ""
	if f.Recv != nil {
		receiver = "receiver."
		fmt.Fprintf(&b, "(receiver %s) ", text(f.Recv.List[0].Type))
	}
	b.WriteString(f.Name.Name)
	if f.Type.TypeParams != nil {
		b.WriteString(text(f.Type.TypeParams))
	}
	var params, args []string
	for _, p := range f.Type.Params.List {
		for range max(len(p.Names), 1) {
			name := fmt.Sprintf("p%d", len(params))
			params = append(params, name+" "+text(p.Type))
			if _, ok := p.Type.(*ast.Ellipsis); ok {
				name += "..."
			}
			args = append(args, name)
		}
	}
	fmt.Fprintf(&b, "(%s) ", strings.Join(params, ", "))
	call := fmt.Sprintf("(%s)", strings.Join(args, ", "))
	back := "return "
	if f.Type.Results == nil {
		back = ""
	} else {
		b.WriteString(text(f.Type.Results))
	}
	fmt.Fprintf(&b, " {\n\tswitch %s {\n", selected)
	for _, d := range ds {
		fmt.Fprintf(&b, "\tcase %q:\n\t\t%s%s%s_%d%s\n", fmt.Sprint(d.number), back, receiver, f.Name.Name, d.number, call)
	}
	fmt.Fprintf(&b, "\tdefault:\n\t\t%s%s%s_sound%s\n\t}\n}", back, receiver, f.Name.Name, call)
	return b.String()
}
