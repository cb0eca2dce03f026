package node

import (
	"context"
	"time"

	"github.com/image-builder-ha/image-builder/internal/ctxutil"
)

// reapLogsInterval is how often a node looks for logs that retention has removed from the state.
const reapLogsInterval = time.Minute

// reapLogs removes the files of logs that the replicated state no longer assigns to this node,
// until ctx ends. Before each run it waits for a read index, because a node with an old state could
// remove a log that was assigned to it since then.
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

// probeLogs tests every two seconds whether a log store that could not write can write again, until
// ctx ends.
func (n *Node) probeLogs(ctx context.Context) error {
	for ctxutil.Sleep(ctx, 2*time.Second) {
		n.logs.Probe()
	}
	return nil
}
