//go:build faults

package chaos

import (
	"context"
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

// diskTorn ends a node in the middle of a write to the replicated log, so that
// a part of it reaches the disk. A node that writes nothing meanwhile is killed.
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

// logDiskFull lets the disk of a node's build logs run full, with little room
// or none: writes fail for true.
func logDiskFull(ctx context.Context, w *world, victims []*harness.Node, s Step) {
	w.disks[victims[0]].fill(int64(s.Amount * s.Amount * (1 << 20)))
	wait(ctx, s.Lasts)
}
