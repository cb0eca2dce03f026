package node

import (
	"context"
	"time"

	"github.com/image-builder-ha/image-builder/internal/ctxutil"
)

// reapInterval is how often a node looks for logs that retention no longer
// keeps.
const reapLogsInterval = time.Minute

// reapLogs removes logs that nobody needs any more, where this node knows all
// that the cluster has decided.
func (n *Node) reapLogs(ctx context.Context) error {
	for ctxutil.Sleep(ctx, reapLogsInterval) {
		if !n.started.Load() {
			continue
		}
		index, err := n.raft.ReadIndex(ctx)
		if err == nil {
			err = n.raft.WaitApplied(ctx, index)
		}
		if err == nil {
			n.logs.Reap()
		}
	}
	return nil
}

// probeLogs finds out whether logs can be written again after they could not.
func (n *Node) probeLogs(ctx context.Context) error {
	for ctxutil.Sleep(ctx, 2*time.Second) {
		n.logs.Probe()
	}
	return nil
}
