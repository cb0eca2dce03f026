package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"unicode"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"sigs.k8s.io/yaml"
)

// Print writes m in the format of --output. table writes it for people, with tabs between columns;
// it may be nil if the format is not table.
func (f *Flags) Print(w io.Writer, m proto.Message, table func(io.Writer)) error {
	if f.Output == "table" {
		t := NewTable(w)
		table(t)
		return t.Flush()
	}
	raw, err := protojson.MarshalOptions{Multiline: true, Indent: "  "}.Marshal(m)
	if err == nil && f.Output == "yaml" {
		raw, err = yaml.JSONToYAML(raw)
	}
	if err != nil {
		return fmt.Errorf("render the response: %w", err)
	}
	_, err = fmt.Fprintln(w, strings.TrimSuffix(string(raw), "\n"))
	return err
}

// NewTable returns a writer that aligns columns with tabs between them. Flush writes the table to w.
// Control characters, which the text of other people may contain, are replaced by question marks.
func NewTable(w io.Writer) *tabwriter.Writer {
	return tabwriter.NewWriter(printable{w}, 0, 4, 2, ' ', 0)
}

// printable replaces control characters except tabs and line ends before they reach a terminal.
type printable struct{ io.Writer }

// Write writes text with question marks instead of control characters.
func (p printable) Write(b []byte) (int, error) {
	text := strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && unicode.IsControl(r) {
			return '?'
		}
		return r
	}, string(b))
	if _, err := io.WriteString(p.Writer, text); err != nil {
		return 0, err
	}
	return len(b), nil
}
