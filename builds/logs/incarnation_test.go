package logs_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// lateWire delays the first batch to a node that resets its copy: the sender gets a timeout, and
// the test delivers the batch later.
type lateWire struct {
	*wire
	to logs.Copy

	mu   sync.Mutex
	late []logs.Append
}

func (w *lateWire) Append(ctx context.Context, to logs.Copy, batch []logs.Append) ([]logs.Ack, error) {
	w.mu.Lock()
	delay := to == w.to && w.late == nil && len(batch) > 0 && batch[0].Reset
	if delay {
		for _, a := range batch {
			a.Records = bytes.Clone(a.Records)
			w.late = append(w.late, a)
		}
	}
	w.mu.Unlock()
	if delay {
		return nil, context.DeadlineExceeded
	}
	return w.wire.Append(ctx, to, batch)
}

// Test_Incarnation_ALateReset replaces a lost copy by node c, and then delivers the first message
// of the replacement, which had timed out. Node c must keep the bytes that readers were shown.
func Test_Incarnation_ALateReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		late := &lateWire{wire: g.wire, to: nodeC}
		g.reps[nodeA].Close()
		g.reps[nodeA] = logs.NewReplicator(g.stores[nodeA], nodeA, late, slog.New(slog.DiscardHandler))
		t.Cleanup(g.reps[nodeA].Close)
		w, feed := g.own(t, nodeA, 1, nodeA, nodeB)
		mustWrite(t, w, []byte("one\n"))
		testkit.Eventually(t, time.Minute, "the first line is shown", func() bool { return g.visible(nodeA) == 4 })
		g.wire.set(nodeB, true)
		feed.Join(nodeC)
		testkit.Eventually(t, time.Minute, "node c has what was shown", func() bool {
			copies, _ := feed.Status()
			for _, c := range copies {
				if c.Copy == nodeC {
					return c.Current
				}
			}
			return false
		})
		feed.Count(nodeC)
		feed.Set([]logs.Copy{nodeA, nodeC})
		mustWrite(t, w, []byte("two, which readers are shown\n"))
		const shown = 33
		testkit.Eventually(t, time.Minute, "the second line is shown", func() bool { return g.visible(nodeA) == shown })

		late.mu.Lock()
		batch := late.late
		late.mu.Unlock()
		if batch == nil {
			t.Fatal("node c was not reset")
		}
		g.stores[nodeC].Append(t.Context(), batch)
		// The owner is lost, and node c ends the log.
		length, _, err := g.stores[nodeC].Fence(key, 2)
		if err != nil {
			t.Fatal(err)
		}
		if length < shown {
			t.Errorf("node c ends the log at %d, but readers were shown %d bytes", length, shown)
		}
	})
}

// Test_Incarnation_Chain delivers appends of several incarnations to one copy, even after a
// restart.
func Test_Incarnation_Chain(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, logs.Options{Dir: dir})
	for i, step := range []struct {
		a       logs.Append
		restart bool
		refusal error
		current uint64
	}{
		{a: logs.Append{Epoch: 1, Incarnation: 11}, refusal: logs.ErrReplaced, current: 0},
		{a: logs.Append{Epoch: 1, Incarnation: 11, Former: 5, Reset: true}, refusal: logs.ErrReplaced, current: 0},
		{a: logs.Append{Epoch: 1, Incarnation: 11, Reset: true}, current: 11},
		{a: logs.Append{Epoch: 1, Incarnation: 11, Reset: true}, restart: true, current: 11}, // its response was lost
		{a: logs.Append{Epoch: 1, Incarnation: 12, Reset: true}, refusal: logs.ErrReplaced, current: 11},
		{a: logs.Append{Epoch: 1, Incarnation: 12, Former: 11, Reset: true}, current: 12},
		{a: logs.Append{Epoch: 1, Incarnation: 11, Reset: true}, restart: true, refusal: logs.ErrReplaced, current: 12},
		{a: logs.Append{Epoch: 1, Incarnation: 11}, refusal: logs.ErrReplaced, current: 12},
		{a: logs.Append{Epoch: 2, Incarnation: 13, Former: 12, Cut: true}, current: 13},
		{a: logs.Append{Epoch: 2, Incarnation: 13, Former: 12, Cut: true}, restart: true, current: 13},
		{a: logs.Append{Epoch: 1, Incarnation: 12}, refusal: logs.ErrFenced},
		{a: logs.Append{Epoch: 2, Incarnation: 12, Former: 11, Reset: true}, refusal: logs.ErrReplaced, current: 13},
		{a: logs.Append{Epoch: 2}, current: 13},             // an owner of an older version
		{a: logs.Append{Epoch: 2, Reset: true}, current: 1}, // the same
		{a: logs.Append{Epoch: 2, Incarnation: 14, Former: 1, Cut: true}, restart: true, current: 14},
	} {
		if step.restart {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = mustOpen(t, logs.Options{Dir: dir})
		}
		step.a.Key = key
		if got := s.Append(t.Context(), []logs.Append{step.a})[0]; !errors.Is(got.Refusal, step.refusal) || got.Incarnation != step.current {
			t.Errorf("step %d: %+v, want the incarnation %d and %v", i, got, step.current, step.refusal)
		}
	}
}

// Test_Incarnation_ALostCopyIsBegunAnew removes a copy behind the back of the owner. The owner must
// not use the rest of it as the copy, and fills the copy again at Retry.
func Test_Incarnation_ALostCopyIsBegunAnew(t *testing.T) {
	g := newGroup(t)
	w, feed := g.own(t, nodeA, 1, nodeA, nodeB)
	mustWrite(t, w, []byte("one\n"))
	testkit.Eventually(t, 10*time.Second, "the first line is shown", func() bool { return g.visible(nodeA) == 4 })
	if err := g.stores[nodeB].Remove(key); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, w, []byte("two\n"))
	testkit.Eventually(t, 10*time.Second, "the copy refuses", func() bool {
		st, _ := feed.Status()
		return len(st) == 1 && errors.Is(st[0].Refusal, logs.ErrReplaced)
	})
	feed.Retry(nodeB)
	testkit.Eventually(t, 10*time.Second, "both lines are shown", func() bool { return g.visible(nodeA) == 8 && g.visible(nodeB) == 8 })
}

// oldVersion is a wire to nodes, or from nodes, of a version before feature level 5: it drops the
// fields that these nodes do not know.
type oldVersion struct{ *wire }

func (w oldVersion) Append(ctx context.Context, to logs.Copy, batch []logs.Append) ([]logs.Ack, error) {
	batch = slices.Clone(batch)
	for i := range batch {
		batch[i].Incarnation, batch[i].Former = 0, 0
	}
	acks, err := w.wire.Append(ctx, to, batch)
	for i := range acks {
		acks[i].Incarnation = 0
	}
	return acks, err
}

// Test_Incarnation_OldVersions replaces a copy in a cluster with nodes of the former version,
// before and after the feature level was raised.
func Test_Incarnation_OldVersions(t *testing.T) {
	for name, extended := range map[string]bool{"level 4": false, "level 5": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGroup(t)
				g.reps[nodeA].Close()
				_ = g.stores[nodeA].Close()
				g.stores[nodeA] = mustOpen(t, logs.Options{Extended: func() bool { return extended }, Grown: func(k logs.Key) { g.reps[nodeA].Grown(k) }})
				g.reps[nodeA] = logs.NewReplicator(g.stores[nodeA], nodeA, oldVersion{g.wire}, slog.New(slog.DiscardHandler))
				t.Cleanup(g.reps[nodeA].Close)
				w, feed := g.own(t, nodeA, 1, nodeA, nodeB)
				mustWrite(t, w, []byte("one\n"))
				testkit.Eventually(t, time.Minute, "the first line is shown", func() bool { return g.visible(nodeB) == 4 })
				feed.Join(nodeC)
				feed.Count(nodeC)
				feed.Set([]logs.Copy{nodeA, nodeC})
				mustWrite(t, w, []byte("two\n"))
				testkit.Eventually(t, time.Minute, "both lines are shown", func() bool { return g.visible(nodeC) == 8 })
			})
		})
	}
}
