package cluster_test

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
)

// busyTally is a tally that receives a change right after its state was captured.
type busyTally struct {
	tally
	captured func()
}

func (b *busyTally) Snapshot() (io.WriterTo, error) {
	w, err := b.tally.Snapshot()
	if b.captured != nil {
		b.captured()
	}
	return w, err
}

// Test_SaveSnapshot_IndexOfTheState saves the state while a command comes. The index in the snapshot
// must be that of the state in it.
func Test_SaveSnapshot_IndexOfTheState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sm := &busyTally{}
		n := open(t, cluster.Config{Name: "n1", DataDir: t.TempDir(), StateMachine: sm, SegmentBytes: 1 << 20})
		want := put(t, n, 1).Index
		done := make(chan struct{})
		sm.captured = func() {
			go func() { defer close(done); put(t, n, 2) }()
			time.Sleep(time.Second) // simulated
		}
		raw := savedState(t, n)
		sm.captured = nil
		<-done
		got, err := cluster.InspectSnapshot(bytes.NewReader(raw), (&tally{}).Restore)
		if err != nil || got != want {
			t.Errorf("the index of the snapshot is %d (%v), that of the state in it %d", got, err, want)
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
}
