package logs

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// Test_Redactor_Take takes output in small parts. The parts together are the whole output, no part
// is much longer than the limit, and a redactor that begins after any part returns the rest of the
// output. So a log may end after each record, and the next owner continues there.
func Test_Redactor_Take(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	secrets := [][]byte{[]byte("secret-one"), []byte("one-secret"), []byte("abcabcabc")}
	words := [][]byte{secrets[0], secrets[1], secrets[2], []byte("secret-"), []byte("abc"), []byte("one"), []byte("text "), []byte("\n"), []byte("c2VjcmV0LW9u")}
	for range 60 {
		var raw []byte
		for range r.IntN(30) {
			raw = append(raw, words[r.IntN(len(words))]...)
		}
		whole := func(raw []byte) []byte {
			one := NewRedactor(secrets, nil)
			a, _ := one.Write(raw)
			b, _ := one.Flush()
			return append(a, b...)
		}
		want := whole(raw)
		one, limit := NewRedactor(secrets, nil), 1+r.IntN(20)
		var got []byte
		at := 0
		rest := raw
		for more := true; more || len(rest) > 0; {
			if !more {
				n := min(1+r.IntN(30), len(rest))
				one.add(rest[:n])
				rest = rest[n:]
			}
			var out []byte
			var n int
			out, n, more = one.take(len(rest) == 0, limit)
			if len(out) > limit+len(redacted) {
				t.Fatalf("a part of %d bytes, the limit is %d", len(out), limit)
			}
			got, at = append(got, out...), at+n
			if tail := whole(raw[at:]); !bytes.Equal(append(bytes.Clone(got), tail...), want) {
				t.Fatalf("%q: after %d raw bytes the output is %q, and the next owner stores %q, want %q", raw, at, got, tail, want)
			}
		}
		if !bytes.Equal(got, want) || at != len(raw) {
			t.Fatalf("%q: got %q, want %q", raw, got, want)
		}
	}
}
