package logs_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// Test_Held checks that a runtime may drop the output before Held: whenever the owner is lost, the
// node of the copy continues at Held or later.
func Test_Held(t *testing.T) {
	const more = "the output ends within the sec"
	for name, c := range map[string]struct {
		old      bool // below feature level 5
		maxBytes int64
		output   []byte
		behind   bool  // the copy is not reached
		want     int64 // Held in the end; -1 if it is RawOffset
	}{
		"all copies have it":                {output: noise(1, 3<<20), want: -1},
		"all copies have it, level 4":       {old: true, output: noise(1, 3<<20), want: -1},
		"the rest of a secret may follow":   {output: []byte(more), want: int64(len(more) - len("sec"))},
		"a copy is behind":                  {output: noise(2, 3<<20), behind: true},
		"a copy is behind, level 4":         {old: true, output: noise(2, 3<<20), behind: true},
		"after the limit":                   {maxBytes: 1000, output: noise(3, 10<<20), want: 8 << 20},
		"after the limit, a copy is behind": {maxBytes: 1000, output: noise(3, 10<<20), behind: true},
		"after the limit, level 4":          {old: true, maxBytes: 1000, output: noise(3, 10<<20), behind: true, want: -1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t)
				for _, n := range []logs.Copy{nodeA, nodeB} {
					g.reps[n].Close()
					_ = g.stores[n].Close()
					g.stores[n] = mustOpen(t, logs.Options{
						MaxBytes: c.maxBytes, SegmentBytes: 200_000, Extended: func() bool { return !c.old },
						Grown: func(k logs.Key) { g.reps[n].Grown(k) },
					})
					g.reps[n] = logs.NewReplicator(g.stores[n], n, g.wire, slog.New(slog.DiscardHandler))
					t.Cleanup(g.reps[n].Close)
				}
				g.wire.set(nodeB, c.behind)
				w, err := g.stores[nodeA].Create(key, 1, logs.NewRedactor([][]byte{[]byte("secret-of-the-build")}, nil), true)
				if err != nil {
					t.Fatal(err)
				}
				feed := g.reps[nodeA].Start(key, 1, []logs.Copy{nodeA, nodeB}, 0)
				for rest := c.output; len(rest) > 0; {
					n := min(100_000, len(rest))
					mustWrite(t, w, rest[:n])
					rest = rest[n:]
				}
				time.Sleep(time.Minute)
				want := c.want
				if want == -1 {
					want = w.RawOffset()
				}
				held := w.Held()
				if held < want || want < held && name != "after the limit" {
					t.Errorf("Held is %d of %d, want %d", held, w.RawOffset(), want)
				}
				feed.Close()
				if _, _, err := g.stores[nodeB].Fence(key, 2); err != nil {
					t.Fatal(err)
				}
				next, _ := g.own(t, nodeB, 2, nodeA, nodeB)
				if at := next.RawOffset(); at < held && !(c.old && c.maxBytes > 0) {
					t.Errorf("the next owner continues at byte %d, but its output is held up to %d", at, held)
				}
				synctest.Wait()
				time.Sleep(time.Minute)
				if n := next.Held(); n < held && !c.old {
					t.Errorf("Held of the next owner is %d, that of the former one was %d", n, held)
				}
			})
		})
	}
}

// Test_Held_WhileMoreArrives reads Held while output is written and the copy is lost and found. It
// must follow the copy and never be ahead of it, and no two owners may disagree about it.
func Test_Held_WhileMoreArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		w, _ := g.own(t, nodeA, 1, nodeA, nodeB)
		last := int64(0)
		for i := range 60 {
			g.wire.set(nodeB, i%20 >= 10)
			for j := range 20 {
				mustWrite(t, w, bytes.Repeat([]byte(fmt.Sprintf("line %4d %3d\n", i, j)), 300))
				time.Sleep(10 * time.Millisecond)
			}
			held := w.Held()
			if copied, _ := g.stores[nodeB].Durable(key); held > copied || held < last { // nothing is redacted
				t.Fatalf("Held is %d, was %d, and the copy has %d bytes", held, last, copied)
			}
			if i%20 == 9 && held <= last {
				t.Errorf("Held stays at %d while the copy follows", held)
			}
			last = held
		}
		g.wire.set(nodeB, false)
		time.Sleep(time.Minute)
		if n := w.Held(); n != w.RawOffset() {
			t.Errorf("Held is %d of %d, although the copy is back", n, w.RawOffset())
		}
	})
}
