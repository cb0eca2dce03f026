//go:build faults

package chaos

import (
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/image-builder-ha/image-builder/test/harness"
)

func diskFull(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	victims[0].Hurt(map[string]any{"disk_full": true})
	wait(ctx, s.Lasts)
}

func diskSlow(ctx context.Context, _ *world, victims []*harness.Node, s Step) {
	victims[0].Hurt(map[string]any{"disk_delay": time.Duration(float64(time.Second) * s.Amount)})
	wait(ctx, s.Lasts)
}

// diskTorn ends a node in the middle of a write to the replicated log, so that only a part of the
// write reaches the disk. If the node writes nothing during the step, it is killed.
func diskTorn(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	n := victims[0]
	w.tear(ctx, n, 1+int(998*s.Amount))
	t := time.NewTimer(s.Lasts)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-n.Exited():
	}
	n.Kill()
	wait(ctx, s.Lasts/4)
}

// logDiskFull fills the disk of the build logs of a node, except for up to 1 MiB. Writes fail with
// real errors.
func logDiskFull(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	w.fillLogs(victims[0], s)
	wait(ctx, s.Lasts)
}

// logDisksFull is logDiskFull on two nodes.
func logDisksFull(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	w.fillLogs(victims[0], s)
	w.fillLogs(victims[1], s)
	wait(ctx, s.Lasts)
}

func (w *world) fillLogs(n *harness.Node, s Step) {
	var err error
	for range 20 { // the node may write between the measurement and the change
		if err = w.logDisks[n].Fill(int64(s.Amount * s.Amount * (1 << 20))); !errors.Is(err, syscall.ENOSPC) {
			break
		}
	}
	if err != nil {
		w.t.Errorf("fill the log disk of %s: %v", n.Name, err)
	}
}

// logDiskFrozen makes the disk of the build logs of a node hang: writes neither return nor fail.
func logDiskFrozen(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	w.logDisks[victims[0]].Freeze()
	wait(ctx, 2*s.Lasts)
}

// raftDiskFrozen makes the disk of the replicated log of a node hang.
func raftDiskFrozen(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	w.raftDisks[victims[0]].Freeze()
	wait(ctx, 2*s.Lasts)
}
