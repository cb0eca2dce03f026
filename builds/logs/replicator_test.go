package logs_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// wire is a transport to stores in this process. It can lose batches and acks.
type wire struct {
	mu   sync.Mutex
	to   map[logs.Copy]*logs.Store
	down map[logs.Copy]bool
	lose bool // loses the acks of every other batch
	n    int
}

func (w *wire) Append(ctx context.Context, to logs.Copy, batch []logs.Append) ([]logs.Ack, error) {
	w.mu.Lock()
	s, down := w.to[to], w.down[to]
	w.n++
	lose := w.lose && w.n%2 == 0
	w.mu.Unlock()
	if s == nil || down {
		return nil, errors.New("unreachable")
	}
	acks := s.Append(ctx, batch)
	if lose {
		return nil, errors.New("the answer was lost")
	}
	return acks, nil
}

func (w *wire) set(c logs.Copy, down bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down[c] = down
}

// tries returns how many batches were sent, including lost ones.
func (w *wire) tries() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n
}

var nodeA, nodeB, nodeC = logs.Copy{Node: "a", StoreID: "1"}, logs.Copy{Node: "b", StoreID: "2"}, logs.Copy{Node: "c", StoreID: "3"}

// group is three stores, each with a replicator.
type group struct {
	wire   *wire
	stores map[logs.Copy]*logs.Store
	reps   map[logs.Copy]*logs.Replicator
}

func newGroup(t testing.TB) *group {
	g := &group{wire: &wire{down: map[logs.Copy]bool{}}, stores: map[logs.Copy]*logs.Store{}, reps: map[logs.Copy]*logs.Replicator{}}
	for _, c := range []logs.Copy{nodeA, nodeB, nodeC} {
		g.stores[c] = mustOpen(t, logs.Options{SegmentBytes: 200_000, Grown: func(k logs.Key) {
			if r := g.reps[c]; r != nil {
				r.Grown(k)
			}
		}})
	}
	g.wire.to = g.stores
	for c, s := range g.stores {
		r := logs.NewReplicator(s, c, g.wire, slog.New(slog.DiscardHandler))
		t.Cleanup(r.Close)
		g.reps[c] = r
	}
	return g
}

// own makes a node the owner of the log with the given copies.
func (g *group) own(t testing.TB, c logs.Copy, epoch uint64, copies ...logs.Copy) (*logs.Writer, *logs.Feed) {
	t.Helper()
	w, err := g.stores[c].Create(key, epoch, nil, true)
	if err != nil {
		t.Fatal(err)
	}
	base, err := g.stores[c].Durable(key)
	if err != nil {
		t.Fatal(err)
	}
	return w, g.reps[c].Start(key, epoch, copies, base)
}

func (g *group) visible(c logs.Copy) int64 {
	n, _, _ := g.stores[c].Length(context.Background(), key)
	return n
}

func Test_Copies_ReadersSeeWhatAllHold(t *testing.T) {
	g := newGroup(t)
	g.wire.set(nodeB, true)
	w, _ := g.own(t, nodeA, 1, nodeA, nodeB)
	want := noise(3, 1<<20)
	mustWrite(t, w, want)
	testkit.Eventually(t, 10*time.Second, "the owner has all of it", func() bool { n, _ := g.stores[nodeA].Durable(key); return n == int64(len(want)) })
	tried := g.wire.tries()
	testkit.Eventually(t, 10*time.Second, "the owner has tried to copy it", func() bool { return g.wire.tries() >= tried+3 })
	if n := g.visible(nodeA); n != 0 {
		t.Fatalf("%d bytes are shown that no other node holds", n)
	}
	g.wire.set(nodeB, false)
	testkit.Eventually(t, 10*time.Second, "all is shown on the owner", func() bool { return g.visible(nodeA) == int64(len(want)) })
	testkit.Eventually(t, 10*time.Second, "all is shown on the copy", func() bool { return g.visible(nodeB) == int64(len(want)) })
	if got := readTo(t, g.stores[nodeB], key, 0, int64(len(want))); !bytes.Equal(got, want) {
		t.Error("the copy differs")
	}
}

func Test_Copies_LostAnswersRepeatNothing(t *testing.T) {
	g := newGroup(t)
	g.wire.lose = true
	w, _ := g.own(t, nodeA, 1, nodeA, nodeB)
	want := noise(4, 3<<20)
	for i := 0; i < len(want); i += 100_000 {
		mustWrite(t, w, want[i:min(i+100_000, len(want))])
	}
	n, sum, err := w.Seal(t.Context())
	if err != nil || n != int64(len(want)) {
		t.Fatalf("sealed %d, %v", n, err)
	}
	for _, c := range []logs.Copy{nodeA, nodeB} {
		if err := g.stores[c].Complete(key, n); err != nil {
			t.Fatal(err)
		}
		if got := readTo(t, g.stores[c], key, 0, all); !bytes.Equal(got, want) {
			t.Errorf("the log on node %s differs", c.Node)
		}
		if s, err := g.stores[c].Checksum(key, n); s != sum || err != nil {
			t.Errorf("checksum on node %s: %s %v, want %s", c.Node, s, err, sum)
		}
	}
}

// Test_Copies_NewOwnerCutsWhatNobodySaw gives the log to a new owner while the former owner has
// bytes on its disk that no reader has seen. They must be cut when the new owner sends to that
// copy.
func Test_Copies_NewOwnerCutsWhatNobodySaw(t *testing.T) {
	g := newGroup(t)
	old, _ := g.own(t, nodeA, 1, nodeA, nodeB)
	mustWrite(t, old, []byte("shown\n"))
	testkit.Eventually(t, 10*time.Second, "the first line is shown", func() bool { return g.visible(nodeA) == 6 })
	g.wire.set(nodeB, true)
	mustWrite(t, old, []byte("never shown\n"))
	testkit.Eventually(t, 10*time.Second, "the owner has the second line", func() bool { n, _ := g.stores[nodeA].Durable(key); return n == 18 })
	g.wire.set(nodeB, false)
	g.wire.set(nodeA, true)
	// Node B, a copy, takes over. Node A does not respond yet.
	if _, _, err := g.stores[nodeB].Fence(key, 2); err != nil {
		t.Fatal(err)
	}
	held, _ := g.stores[nodeB].Durable(key)
	next, _ := g.own(t, nodeB, 2, nodeA, nodeB)
	mustWrite(t, next, []byte("goes on\n"))
	g.wire.set(nodeA, false)
	testkit.Eventually(t, 10*time.Second, "the new owner's line is shown", func() bool { return g.visible(nodeB) == held+8 })
	if _, err := old.Write([]byte("late\n")); !errors.Is(err, logs.ErrFenced) {
		testkit.Eventually(t, 10*time.Second, "the old owner is refused", func() bool { _, err := old.Write([]byte("late\n")); return errors.Is(err, logs.ErrFenced) })
	}
	testkit.Eventually(t, 10*time.Second, "the old owner's copy follows", func() bool { return g.visible(nodeA) == held+8 })
	a, b := readTo(t, g.stores[nodeA], key, 0, held+8), readTo(t, g.stores[nodeB], key, 0, held+8)
	if !bytes.Equal(a, b) || !bytes.HasPrefix(a, []byte("shown\n")) {
		t.Errorf("node a has %q, node b %q", a, b)
	}
}

// Test_Copies_FencedCopyRefusesTheFormerOwner checks that a former owner can neither change a
// sealed log nor show more of it.
func Test_Copies_FencedCopyRefusesTheFormerOwner(t *testing.T) {
	g := newGroup(t)
	old, feed := g.own(t, nodeA, 1, nodeA, nodeB)
	mustWrite(t, old, []byte("shown\n"))
	testkit.Eventually(t, 10*time.Second, "the first line is shown", func() bool { return g.visible(nodeA) == 6 })
	n, _, err := g.stores[nodeB].Fence(key, 2)
	if err != nil || n != 6 {
		t.Fatal(n, err)
	}
	mustWrite(t, old, []byte("late\n"))
	testkit.Eventually(t, 10*time.Second, "the owner learns that it is fenced", func() bool {
		st, _ := feed.Status()
		return len(st) == 1 && errors.Is(st[0].Refusal, logs.ErrFenced)
	})
	if n := g.visible(nodeA); n != 6 {
		t.Errorf("%d bytes are shown by the former owner", n)
	}
	if err := g.stores[nodeB].Complete(key, 6); err != nil {
		t.Fatal(err)
	}
	if err := g.stores[nodeA].Complete(key, 6); err != nil {
		t.Fatal(err)
	}
	if got := readTo(t, g.stores[nodeA], key, 0, all); string(got) != "shown\n" {
		t.Errorf("the former owner's copy is %q", got)
	}
}

// Test_Copies_FenceOutlivesARestart checks that a fence survives a restart, also that of an empty
// log.
func Test_Copies_FenceOutlivesARestart(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, logs.Options{Dir: dir})
	if _, _, err := s.Fence(key, 7); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, logs.Options{Dir: dir})
	acks := s.Append(t.Context(), []logs.Append{{Key: key, Epoch: 6}})
	if !errors.Is(acks[0].Refusal, logs.ErrFenced) {
		t.Errorf("an append of epoch 6 after the fence 7: %+v", acks[0])
	}
}

func Test_Copies_ALostOneIsReplaced(t *testing.T) {
	g := newGroup(t)
	w, feed := g.own(t, nodeA, 1, nodeA, nodeB)
	mustWrite(t, w, []byte("one\n"))
	testkit.Eventually(t, 10*time.Second, "one line is shown", func() bool { return g.visible(nodeA) == 4 })
	g.wire.set(nodeB, true)
	mustWrite(t, w, []byte("two\n"))
	// Node C has bytes of an earlier copy.
	g.stores[nodeC].Append(t.Context(), []logs.Append{{Key: key, Epoch: 1}})
	feed.Join(nodeC)
	testkit.Eventually(t, 10*time.Second, "node C has what was shown", func() bool {
		st, _ := feed.Status()
		for _, s := range st {
			if s.Copy == nodeC {
				return s.Current
			}
		}
		return false
	})
	if n := g.visible(nodeA); n != 4 {
		t.Errorf("%d bytes are shown while node b is a member", n)
	}
	feed.Count(nodeC)
	feed.Set([]logs.Copy{nodeA, nodeC})
	testkit.Eventually(t, 10*time.Second, "the rest is shown", func() bool { return g.visible(nodeA) == 8 && g.visible(nodeC) == 8 })
}

func Benchmark_Copies(b *testing.B) {
	g := newGroup(b)
	for _, copies := range [][]logs.Copy{{nodeA}, {nodeA, nodeB}} {
		b.Run(map[int]string{1: "one", 2: "two"}[len(copies)], func(b *testing.B) {
			k := logs.Key{Build: "bench", Attempt: uint32(len(copies))}
			w, err := g.stores[nodeA].Create(k, 1, nil, true)
			if err != nil {
				b.Fatal(err)
			}
			feed := g.reps[nodeA].Start(k, 1, copies, 0)
			defer feed.Close()
			chunk := noise(1, 64<<10)
			b.SetBytes(int64(len(chunk)))
			for b.Loop() {
				if _, err := w.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
			if _, _, err := w.Seal(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
}

// reachable reports whether the node can be reached.
func (w *wire) reachable(c logs.Copy) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to[c] != nil
}
