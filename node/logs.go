package node

import (
	"context"
	"time"

	"github.com/image-builder-ha/image-builder/internal/ctxutil"
)

// reapInterval is how often a node looks for logs that retention no longer
// keeps.
const reapInterval = time.Minute

// reapLogs removes logs that nobody needs any more, where this node knows all
// that the cluster has decided.
func (s *Node) reapLogs(ctx context.Context) error {
	for ctxutil.Sleep(ctx, reapInterval) {
		if !s.started.Load() {
			continue
		}
		index, err := s.raft.ReadIndex(ctx)
		if err == nil {
			err = s.raft.WaitApplied(ctx, index)
		}
		if err == nil {
			s.logs.Reap()
		}
	}
	return nil
}

// probeLogs finds out whether logs can be written again after they could not.
func (s *Node) probeLogs(ctx context.Context) error {
	for ctxutil.Sleep(ctx, 2*time.Second) {
		s.logs.Probe()
	}
	return nil
}
