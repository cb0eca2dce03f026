package node

import (
	"context"
	"errors"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// handOver gives up leadership before the node ends.
func (s *Node) handOver() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if s.level() >= 2 && s.started.Load() {
		_, _, err := builds.Propose(ctx, s.raft, &buildsv1.NodeStopping{Name: s.cfg.Name, StoreId: s.cluster.StoreID(), BootId: s.boot})
		if err != nil {
			s.log.Warn("cannot tell the cluster that this node stops", "err", err)
		}
	}
	if s.cluster.Status().Role == "Leader" && len(s.cluster.Members()) > 1 {
		if err := s.cluster.TransferLeadership(ctx, ""); err != nil && !errors.Is(err, cluster.ErrNoLeader) {
			s.log.Warn("cannot hand leadership over", "err", err)
		}
	}
}

// drain lets running builds end that cannot go on under another node.
func (s *Node) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(s.cfg.Shutdown.Drain))
	defer cancel()
	for n := -1; ; {
		left := s.owner.Running()
		if left == 0 {
			return
		}
		if left != n {
			n = left
			s.log.Info("waits for builds that run here", "builds", n, "at most", time.Duration(s.cfg.Shutdown.Drain))
		}
		if !ctxutil.Sleep(ctx, 50*time.Millisecond) {
			return
		}
	}
}
