package logs_test

import (
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Seal_FreezesTheEnd seals a log while the disk of the owner is full and the other
// copy is one acknowledgement behind, which arrives after the seal. Readers must not be shown more
// than the length that Seal has returned, and each copy must end at that length.
func Test_Seal_FreezesTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGroup(t)
		disk := &fullFS{FS: logs.Disk()}
		g.reps[nodeA].Close()
		_ = g.stores[nodeA].Close()
		g.stores[nodeA] = mustOpen(t, logs.Options{FS: disk, Grown: func(k logs.Key) { g.reps[nodeA].Grown(k) }})
		g.reps[nodeA] = logs.NewReplicator(g.stores[nodeA], nodeA, g.wire, slog.New(slog.DiscardHandler))
		t.Cleanup(g.reps[nodeA].Close)

		w, feed := g.own(t, nodeA, 1, nodeA, nodeB)
		mustWrite(t, w, []byte("first line\n"))
		testkit.Eventually(t, time.Minute, "the first line is shown", func() bool { return g.visible(nodeA) == 11 })
		g.wire.set(nodeB, true)
		mustWrite(t, w, []byte("second line\n"))
		testkit.Eventually(t, time.Minute, "the second line is durable", func() bool { n, _ := g.stores[nodeA].Durable(key); return n == 23 })
		disk.full.Store(true)
		mustWrite(t, w, []byte("third line\n"))
		length, _, err := w.Seal(t.Context())
		if err == nil {
			t.Fatalf("Seal succeeds on a full disk with length %d", length)
		}
		if early := (*logs.EndError)(nil); !errors.As(err, &early) || early.Missing != 34-length {
			t.Errorf("a log of 34 bytes ends at %d: %v", length, err)
		}
		g.wire.set(nodeB, false)
		time.Sleep(10 * time.Second) // simulated: the acknowledgement of node b arrives
		for _, c := range []logs.Copy{nodeA, nodeB} {
			if n := g.visible(c); n > length {
				t.Errorf("node %s shows %d bytes of a log that was sealed at %d", c.Node, n, length)
			}
		}
		feed.Close()
		disk.full.Store(false)
		for _, c := range []logs.Copy{nodeA, nodeB} {
			if err := g.stores[c].Complete(key, length); err != nil {
				t.Errorf("the copy of node %s cannot be completed: %v", c.Node, err)
			}
		}
	})
}
