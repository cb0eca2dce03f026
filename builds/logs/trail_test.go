package logs

import (
	"math/rand/v2"
	"testing"
)

// Test_Trail_NeverAhead moves the length that all copies have through a log, while the owner adds to
// it. The raw offset of the trail must never exceed that of the bytes that all copies have, and must
// be right once all copies have everything.
func Test_Trail_NeverAhead(t *testing.T) {
	for _, seed := range []uint64{1, 2, 3} {
		r := rand.New(rand.NewPCG(seed, 0))
		var tr trail
		var log []point
		var end point
		all := int64(0)
		for range 5 * maxPoints {
			end = point{end.length + 1 + r.Int64N(9), end.raw + r.Int64N(30)}
			log = append(log, end)
			tr.add(end)
			if r.IntN(50) == 0 {
				all += r.Int64N(end.length - all + 1)
				tr.reach(all)
			}
			var truth int64
			for _, p := range log {
				if p.length <= all {
					truth = p.raw
				}
			}
			if tr.held.raw > truth {
				t.Fatalf("seed %d: all copies have %d bytes with the raw offset %d, the trail says %d", seed, all, truth, tr.held.raw)
			}
			if len(tr.ahead) > maxPoints {
				t.Fatalf("the trail keeps %d points", len(tr.ahead))
			}
		}
		if tr.reach(end.length); tr.held != end || len(tr.ahead) != 0 {
			t.Errorf("seed %d: all copies have everything, up to %+v, the trail says %+v", seed, end, tr.held)
		}
	}
}

// Test_Trail_Prove checks positions that follow the last payload of a log.
func Test_Trail_Prove(t *testing.T) {
	for name, c := range map[string]struct {
		steps func(*trail)
		want  point
	}{
		"nothing is known":            {func(*trail) {}, point{}},
		"of an empty log":             {func(tr *trail) { tr.prove(point{0, 7}) }, point{0, 7}},
		"after the last payload":      {func(tr *trail) { tr.add(point{5, 5}); tr.prove(point{5, 9}) }, point{5, 9}},
		"before output that is known": {func(tr *trail) { tr.add(point{5, 5}); tr.reach(5); tr.prove(point{3, 9}) }, point{5, 5}},
		"and then more output": {func(tr *trail) {
			tr.prove(point{5, 9})
			tr.add(point{6, 12})
			tr.add(point{7, 13})
			tr.reach(6)
		}, point{6, 12}},
		"a point that the proof covers": {func(tr *trail) { tr.prove(point{5, 9}); tr.add(point{5, 5}); tr.reach(5) }, point{5, 9}},
		"of a position that went back":  {func(tr *trail) { tr.add(point{5, 5}); tr.prove(point{5, 2}) }, point{5, 2}},
	} {
		var tr trail
		if c.steps(&tr); tr.held != c.want {
			t.Errorf("%s: %+v, want %+v", name, tr.held, c.want)
		}
	}
}
