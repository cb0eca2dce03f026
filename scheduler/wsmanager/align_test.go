package wsmanager

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
)

func Test_Align(t *testing.T) {
	text := func(seed uint64, n int) []byte {
		r := rand.New(rand.NewPCG(seed, seed))
		b := make([]byte, n)
		for i := range b {
			b[i] = byte('a' + r.IntN(26))
		}
		return b
	}
	known := text(1, 4000)
	other := text(2, 4000)
	dots := []byte(strings.Repeat(".", 4000))
	for name, c := range map[string]struct {
		known    []byte
		complete bool
		replay   []byte
		skip     int
		want     alignment
	}{
		"all again":                       {known, true, known, 4000, aligned},
		"all again and more":              {known, true, append(bytes.Clone(known), "new"...), 4000, aligned},
		"a beginning of it":               {known, true, known[:3999], 0, within},
		"nothing yet":                     {known, true, nil, 0, within},
		"little is known":                 {[]byte("abc"), true, []byte("abcdef"), 3, aligned},
		"the latest part":                 {known, false, known[1000:], 3000, aligned},
		"the latest part and more":        {known, false, append(bytes.Clone(known[1000:]), "new"...), 3000, aligned},
		"from the middle":                 {known, false, known[1000:3000], 0, within},
		"something else":                  {known, true, other, 0, unrelated},
		"something else after a gap":      {known, false, other, 0, unrelated},
		"the end, but too little to tell": {known, false, append(bytes.Clone(known[3900:]), other...), 100, open},
		"the same again and again":        {dots, false, dots[:3000], 0, within},
		"the same, more of it":            {dots, false, append(bytes.Clone(dots), "x"...), 4000, open},
		"the same, all of it":             {dots, true, append(bytes.Clone(dots), "x"...), 4000, aligned},
	} {
		if skip, got := align(c.known, c.complete, c.replay); got != c.want || skip != c.skip {
			t.Errorf("%s: %d, %v; want %d, %v", name, skip, got, c.skip, c.want)
		}
	}
}

// Fuzz_Align checks that the alignment is true for every input.
func Fuzz_Align(f *testing.F) {
	f.Add([]byte("abcabc"), true, []byte("abcabcabc"))
	f.Add(bytes.Repeat([]byte("ab"), 600), false, bytes.Repeat([]byte("ab"), 700))
	f.Fuzz(func(t *testing.T, known []byte, complete bool, replay []byte) {
		skip, a := align(known, complete, replay)
		if skip < 0 || skip > len(replay) || skip > len(known) {
			t.Fatalf("skips %d of %d", skip, len(replay))
		}
		if a == aligned && !bytes.HasSuffix(known, replay[:skip]) {
			t.Fatal("skips unknown output")
		}
		if a == within && len(replay) > 0 && !bytes.Contains(known, replay) {
			t.Fatal("claims to be within")
		}
		if a == unrelated && len(replay) > 0 && (bytes.Contains(known, replay) || len(known) > 0 && replay[0] == known[len(known)-1]) {
			t.Fatal("calls related output unrelated")
		}
	})
}
