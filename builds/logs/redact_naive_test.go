package logs

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

// given is a set of patterns for which the naive search is written.
type given struct{ plain, censored, wrapped []string }

func (g given) patterns() *Patterns {
	p := &Patterns{plain: newAutomaton(prefixBytes), wrapped: newAutomaton(prefixBytes)}
	for _, t := range g.plain {
		p.addPlain([]byte(t), true)
	}
	for _, t := range g.censored {
		p.addPlain([]byte(t), false)
	}
	for _, t := range g.wrapped {
		p.addWrapped([]byte(t))
	}
	p.plain.link()
	p.wrapped.link()
	return p
}

// redact redacts a text that is complete: it looks for each pattern at each byte.
func (g given) redact(text []byte) (out []byte, longest int) {
	var all []span
	s := string(text)
	for i := range text {
		for _, p := range g.plain {
			if strings.HasPrefix(s[i:], p) {
				all = append(all, span{i, i + len(p), true})
			}
		}
		for _, p := range g.censored {
			if strings.HasPrefix(s[i:], p) {
				all = append(all, span{i, i + len(p), false})
			}
		}
		for _, p := range g.wrapped {
			if n, _ := wrapsAt([]byte(p), text[i:]); n > 0 {
				all = append(all, span{i, i + n, true})
			}
		}
	}
	all = append(all, g.switches(text)...)
	slices.SortStableFunc(all, func(a, b span) int { return a.start - b.start })
	at := 0
	for len(all) > 0 {
		run := all[0]
		for all = all[1:]; len(all) > 0 && all[0].start < run.end; all = all[1:] {
			run.end, run.secret = max(run.end, all[0].end), run.secret || all[0].secret
		}
		out = append(out, text[at:run.start]...)
		if run.secret {
			out = append(out, redacted...)
		} else {
			out = append(out, censored...)
		}
		at, longest = run.end, max(longest, run.end-run.start)
	}
	return append(out, text[at:]...), longest
}

// stepSwitchAt is a line end and a line such as `#12 ...`.
var stepSwitchAt = regexp.MustCompile(`^\r?\n#[0-9]{1,9} \.\.\.`)

// switches returns the beginnings of patterns before each place where a printer has cut a line.
func (g given) switches(text []byte) (all []span) {
	for i := range text {
		if text[i] != '\r' && text[i] != '\n' || !stepSwitchAt.Match(text[i:]) || text[i] == '\n' && i > 0 && text[i-1] == '\r' {
			continue
		}
		for j := range max(i-minSecret+1, 0) {
			if g.begins(text[j:i]) {
				all = append(all, span{j, i, true})
				break
			}
		}
	}
	return all
}

// begins reports whether a pattern begins with b and is longer.
func (g given) begins(b []byte) bool {
	for _, set := range [][]string{g.plain, g.censored} {
		for _, p := range set {
			if len(p) > len(b) && strings.HasPrefix(p, string(b)) {
				return true
			}
		}
	}
	for _, p := range g.wrapped {
		if _, undecided := wrapsAt([]byte(p), b); undecided {
			return true
		}
	}
	return false
}

// wrapsAt returns the length of a wrapped text at the start of b, including line breaks in it; 0 if
// b does not begin with it. undecided reports whether more input could change that.
func wrapsAt(text, b []byte) (n int, undecided bool) {
	if len(b) > 0 && b[0] != text[0] {
		return 0, false // faster: no line break precedes the text
	}
	for first := true; ; first = false {
		m := min(len(text), len(b)-n)
		if bytes.Equal(text[:m], b[n:n+m]) {
			if m < len(text) {
				return 0, true
			}
			return n + m, false
		}
		m = breakIn(b[n:], len(text))
		if m <= 0 || !first && m < minColumns || !bytes.Equal(text[:m], b[n:n+m]) {
			return 0, false
		}
		skip, more := lineBreakAt(b[n+m:])
		if skip == 0 {
			return 0, more
		}
		text, n = text[m:], n+m+skip
	}
}

// breakIn returns the end of the first line of b if it is before limit, else -1.
func breakIn(b []byte, limit int) int {
	m := bytes.IndexByte(b[:min(limit+1, len(b))], '\n')
	switch {
	case m > 0 && b[m-1] == '\r':
		m--
	case m < 0 && len(b) <= limit && b[len(b)-1] == '\r': // '\n' may follow in the next input
		m = len(b) - 1
	}
	if m >= limit {
		return -1
	}
	return m
}

// lineBreakAt returns the length of a line break at the start of b, including the mark before each
// line of a step's output (`#12 3.456 `), or spaces, after it. undecided reports whether more input
// could change that. b must not be empty.
func lineBreakAt(b []byte) (n int, undecided bool) {
	if b[0] == '\r' {
		n = 1
	}
	if n == len(b) {
		return 0, true
	}
	if b[n] != '\n' {
		return 0, false
	}
	n++
	if n == len(b) {
		return 0, true
	}
	at := n
	for b[at] == ' ' && at-n < maxIndent {
		if at++; at == len(b) {
			return 0, true
		}
	}
	if at > n || b[at] != '#' {
		return at, false
	}
	at++
	for _, part := range []struct {
		digits bool
		then   byte
	}{{true, ' '}, {true, '.'}, {true, ' '}} {
		begin := at
		for at < len(b) && b[at] >= '0' && b[at] <= '9' && at-n < maxMark {
			at++
		}
		switch {
		case at == len(b):
			return 0, true
		case at == begin || b[at] != part.then:
			return n, false
		}
		at++
	}
	if at == len(b) {
		return 0, true
	}
	return at, false
}

// random returns patterns of few characters, so that they overlap and contain each other, and a text
// of pieces of them, with line breaks.
func random(r *rand.Rand) (g given, text []byte) {
	word := func(alphabet string, n int) string {
		var b strings.Builder
		for range n {
			b.WriteByte(alphabet[r.IntN(len(alphabet))])
		}
		return b.String()
	}
	alphabet := []string{"a", "ab", "ab", "abc", "01", "ab\n"}[r.IntN(6)]
	length := func() int { return 4 + r.IntN([]int{4, 12, 40, 150}[r.IntN(4)]) }
	for range 1 + r.IntN(3) {
		g.plain = append(g.plain, word(alphabet, length()))
	}
	for range r.IntN(2) {
		g.censored = append(g.censored, word(alphabet, length()))
	}
	wrappable := strings.ReplaceAll(alphabet, "\n", "1")
	for range r.IntN(3) {
		g.wrapped = append(g.wrapped, word(wrappable, length()))
	}
	if r.IntN(3) == 0 { // a pattern with the same long beginning as another one
		g.plain = append(g.plain, g.plain[0]+word(alphabet, length()))
	}
	all := slices.Concat(g.plain, g.censored, g.wrapped)
	lineEnd := func() string {
		return []string{"\n", "\r\n", "\n   ", "\n#1 2.3 ", "\r\n#12 0.10 ", "\r", "\n\n", "\n#1 01 ", "\n#1 ...\n", "\r\n#12 ...\r\n"}[r.IntN(10)]
	}
	for range 1 + r.IntN(12) {
		switch p := all[r.IntN(len(all))]; r.IntN(5) {
		case 0:
			text = append(text, p...)
		case 1:
			text = append(text, p[:r.IntN(len(p)+1)]...)
		case 2:
			text = append(text, p[r.IntN(len(p)):]...)
		case 3:
			text = append(text, word(alphabet+"x", r.IntN(6))...)
		case 4:
			columns := []int{1 + r.IntN(20), 16, 20, 64}[r.IntN(4)]
			for first := 1 + r.IntN(columns); len(p) > 0; first = columns {
				n := min(first, len(p))
				text = append(text, p[:n]...)
				if p = p[n:]; len(p) > 0 {
					text = append(text, lineEnd()...)
				}
			}
		}
		if r.IntN(4) == 0 {
			text = append(text, lineEnd()...)
		}
	}
	return g, append(text, "xa"[r.IntN(2)])
}

// cut redacts a text that arrives in random pieces. It returns the seams: pairs of a length of the
// text and the length of its output.
func cut(p *Patterns, text []byte, r *rand.Rand) (out []byte, seams [][2]int) {
	one, at := p.Redactor(), 0
	step := 1 + r.IntN(30)
	for rest := text; len(rest) > 0; {
		n := min(1+r.IntN(step), len(rest))
		o, consumed := one.Write(rest[:n])
		out, at, rest = append(out, o...), at+consumed, rest[n:]
		seams = append(seams, [2]int{at, len(out)})
	}
	o, _ := one.Flush()
	return append(out, o...), seams
}

// Test_Redact_LikeTheNaiveSearch compares the output for random patterns and texts, in random
// pieces, with that of a naive search. A redactor that begins at any seam returns the rest.
func Test_Redact_LikeTheNaiveSearch(t *testing.T) {
	for seed := range uint64(testkit.InSoak(20_000, 300)) {
		r := rand.New(rand.NewPCG(seed, 5))
		g, text := random(r)
		p := g.patterns()
		want, longest := g.redact(text)
		got, seams := cut(p, text, r)
		if longest < maxRun && !bytes.Equal(got, want) {
			t.Fatalf("seed %d: patterns %q, text %q:\n got %q\nwant %q", seed, g, text, got, want)
		}
		for range 3 {
			s := seams[r.IntN(len(seams))]
			rest, _ := cut(p, text[s[0]:], r)
			if all := slices.Concat(got[:s[1]], rest); !bytes.Equal(all, got) {
				t.Fatalf("seed %d: patterns %q, text %q, after byte %d of the text:\n got %q\nwant %q", seed, g, text, s[0], all, got)
			}
		}
	}
}

// Test_Redact_LongRuns redacts runs of overlapping occurrences that are longer than what is held
// back. No byte of an occurrence is left, wherever the stream is cut and continued.
func Test_Redact_LongRuns(t *testing.T) {
	for seed := range uint64(testkit.InSoak(60, 15)) {
		r := rand.New(rand.NewPCG(seed, 6))
		secret := strings.Repeat("ab", 3+r.IntN(5))
		g := given{plain: []string{secret, strings.Repeat("ab", 40+r.IntN(60)) + "c", "babababa"}, wrapped: []string{"YWJhYmFiYWJhYmFi"}}
		p := g.patterns()
		text := []byte("<" + strings.Repeat("ab", r.IntN(3000)) + secret + ">" + secret + strings.Repeat("ba", 4+r.IntN(700)))
		got, seams := cut(p, text, r)
		if rest := strings.NewReplacer(redacted, "").Replace(string(got)); rest != "<>" {
			t.Fatalf("seed %d: %q is left", seed, rest)
		}
		for _, s := range seams {
			if r.IntN(20) > 0 {
				continue
			}
			rest, _ := cut(p, text[s[0]:], r)
			if all := slices.Concat(got[:s[1]], rest); !bytes.Equal(all, got) {
				t.Fatalf("seed %d: after byte %d of %d the output differs", seed, s[0], len(text))
			}
		}
	}
}

// bound is the number of bytes that a redactor may hold back: the longest occurrence, a run of
// occurrences, and the start of another one in the run.
func bound(longest int) int { return maxRun + 3*longest + 100 }

// maxWork is the number of states that a redactor may visit for each byte, if the text is in one
// long pattern at a time.
const maxWork = 8

// Test_Redact_Linear redacts output that repeats a secret. The work for each byte and the bytes that
// are held back do not grow.
func Test_Redact_Linear(t *testing.T) {
	size := testkit.InSoak(64, 4) << 20
	r := NewRedactor([][]byte{[]byte("aaaaaa")}, nil)
	chunk := bytes.Repeat([]byte("a"), 64<<10)
	for n := 0; n < size; n += len(chunk) {
		r.Write(chunk)
		if len(r.held) > bound(18) {
			t.Fatalf("%d bytes are held back", len(r.held))
		}
	}
	if r.work > maxWork*size {
		t.Errorf("the redactor visits %d states for %d bytes", r.work, size)
	}
}

// periodic returns a secret and an output that are periodic, so that occurrences overlap.
func periodic(seed uint64) (r *rand.Rand, secret, out string) {
	r = rand.New(rand.NewPCG(seed, 7))
	unit := func() string { return strings.Repeat("a", r.IntN(4)) + []string{"a", "b", "\n", "YWFh"}[r.IntN(4)] }
	a, b := unit(), unit()
	secret = strings.Repeat(a, 2+r.IntN(60)) + strings.Repeat(b, r.IntN(10)) + "aaaaaa"
	out = strings.Repeat(strings.Repeat(a, 1+r.IntN(70))+strings.Repeat(b, r.IntN(10)), 1+r.IntN(40))
	return r, secret, out
}

// Test_Redact_LinearForAll redacts the output that is worst of many random ones. Secrets and output
// are periodic, so that occurrences overlap.
func Test_Redact_LinearForAll(t *testing.T) {
	worst, text := 0., ""
	for seed := range uint64(testkit.InSoak(10_000, 1000)) {
		r, secret, out := periodic(seed)
		one := NewRedactor([][]byte{[]byte(secret)}, nil)
		for rest := []byte(out); len(rest) > 0; {
			n := min(1+r.IntN(4096), len(rest))
			one.Write(rest[:n])
			rest = rest[n:]
			if limit := bound(6 * len(secret)); len(one.held) > limit {
				t.Fatalf("seed %d: %d bytes are held back, more than %d", seed, len(one.held), limit)
			}
		}
		if w := float64(one.work) / float64(len(out)); w > worst && len(out) > 100 {
			worst, text = w, fmt.Sprintf("secret %q, output %.200q", secret, out)
		}
	}
	t.Logf("at most %.1f states for each byte: %s", worst, text)
	if worst > 3*maxWork {
		t.Errorf("the redactor visits %.1f states for each byte: %s", worst, text)
	}
}

// Test_Redact_LargeSecrets counts the work for secrets of 1 MiB in lines with the same beginning.
func Test_Redact_LargeSecrets(t *testing.T) {
	var secret bytes.Buffer
	line := strings.Repeat("the same beginning of each line ", 4)
	for i := 0; secret.Len() < 1<<18; i++ {
		fmt.Fprintf(&secret, "%s%d\n", line, i)
	}
	r := NewRedactor([][]byte{secret.Bytes()}, nil)
	out, _ := r.Write(append(secret.Bytes(), line...))
	last, _ := r.Flush()
	if got := string(out) + string(last); strings.Contains(got, "beginning") && strings.Count(got, "beginning") > 4 {
		t.Errorf("got %.200q", got)
	}
	if limit := 2 * maxWork * secret.Len(); r.work > limit {
		t.Errorf("the redactor visits %d states for %d bytes", r.work, secret.Len())
	}
}
