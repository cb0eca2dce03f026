package wsmanager

import (
	"bytes"
	"context"
	"strings"
	"testing"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// memory is a sink in memory; markers stand in angle brackets.
type memory struct {
	bytes.Buffer
	offset int64
}

func (m *memory) Write(p []byte) (int, error) {
	m.offset += int64(len(p))
	return m.Buffer.Write(p)
}
func (m *memory) Marker(string) error           { m.WriteString("<>"); return nil }
func (m *memory) Reposition(offset int64) error { m.offset = offset; return nil }
func (m *memory) Offset() int64                 { return m.offset }
func (m *memory) Held() int64                   { return m.offset }
func (m *memory) Flush(context.Context) error   { return nil }
func (m *memory) Running()                      {}
func (m *memory) Steps([]*imagebuilderv1.Step)  {}

// Test_Replay checks the output that a second connection adds to a log with the content "one two ".
func Test_Replay(t *testing.T) {
	long := strings.Repeat("0123456789", 200)
	for name, c := range map[string]struct {
		adopted bool // only the length is known
		known   string
		sent    []string
		quiet   int // pauses after the last output; the last one is final
		end     string
		want    string
	}{
		"again and more":             {sent: []string{"one two three"}, want: "three"},
		"in pieces":                  {sent: []string{"one", " t", "wo thr", "ee"}, want: "three"},
		"only again, clean":          {sent: []string{"one two "}, end: "clean"},
		"a part, clean":              {sent: []string{"one "}, end: "clean"},
		"a part, broken":             {sent: []string{"one "}, end: "broken"},
		"a part, slowly":             {sent: []string{"one "}, quiet: 1},
		"the latest part, broken":    {sent: []string{"two "}, end: "broken"},
		"the latest part, clean":     {sent: []string{"two "}, end: "clean"},
		"the latest part, and then":  {sent: []string{"two ", "three"}, quiet: 1, want: "<>two three"},
		"too little to prove":        {sent: []string{"two three"}, quiet: 1, want: "<>two three"},
		"too little, broken":         {sent: []string{"two three"}, end: "broken"},
		"something else":             {sent: []string{"xyz"}, want: "<>xyz"},
		"something else and more":    {sent: []string{"xyz", "abc"}, want: "<>xyzabc"},
		"enough of the latest part":  {known: "x" + long, sent: []string{long[1:] + "new"}, quiet: 1, want: "<>" + long[1:] + "new"}, // it repeats itself
		"adopted, again and more":    {adopted: true, sent: []string{"one two three"}, quiet: 1, want: "three"},
		"adopted, in pieces":         {adopted: true, sent: []string{"one", " two three"}, quiet: 1, want: "three"},
		"adopted, not quiet yet":     {adopted: true, sent: []string{"one two three"}},
		"adopted, too little":        {adopted: true, sent: []string{"one "}, quiet: 2, want: "<>one "},
		"adopted, broken":            {adopted: true, sent: []string{"one two three"}, end: "broken"},
		"adopted, clean":             {adopted: true, sent: []string{"one two three"}, end: "clean", want: "three"},
		"adopted, too little, clean": {adopted: true, sent: []string{"one "}, end: "clean", want: "<>one "},
		"adopted, a full terminal":   {adopted: true, sent: []string{long}, want: "<>" + long},
	} {
		if c.known == "" {
			c.known = "one two "
		}
		m := &memory{}
		if c.adopted {
			m.offset = int64(len(c.known))
		}
		o := newOutput(m, 1<<20, 1000)
		if !c.adopted {
			if err := (&replay{out: o}).take([]byte(c.known)); err != nil {
				t.Fatal(err)
			}
			m.Reset()
		}
		r := &replay{out: o}
		for _, s := range c.sent {
			if err := r.take([]byte(s)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range c.quiet {
			if err := r.quiet(i == 1); err != nil {
				t.Fatal(err)
			}
		}
		if c.end != "" {
			if err := r.end(c.end == "clean"); err != nil {
				t.Fatal(err)
			}
		}
		if got := m.String(); got != c.want {
			t.Errorf("%s: adds %.60q, want %.60q", name, got, c.want)
		}
	}
}

// Test_Output_RemembersABoundedPart checks that the kept output does not grow without a limit.
func Test_Output_RemembersABoundedPart(t *testing.T) {
	o := newOutput(&memory{}, 1000, 100)
	all := ""
	for i := range 300 {
		p := strings.Repeat(string(rune('a'+i%26)), 1+i*7%900)
		all += p
		if err := o.write([]byte(p)); err != nil {
			t.Fatal(err)
		}
		if len(o.known) > 2000 || len(o.known) < min(1000, len(all)) || !strings.HasSuffix(all, string(o.known)) || o.complete != (len(all) <= 1000) {
			t.Fatalf("after %d bytes: remembers %d, complete %v", len(all), len(o.known), o.complete)
		}
	}
}
