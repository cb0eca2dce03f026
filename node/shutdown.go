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

// handOver prepares the cluster for the end of this node. It commits that this node stops, so that
// the leader assigns nothing to it. It does so only from feature level 2 on, and only if the state
// already contains this process. If this node leads, handOver also transfers leadership to another
// node. It takes at most two seconds. Without handOver, the other nodes would find out only when
// this node no longer responds.
func (n *Node) handOver() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if n.level() >= 2 && n.started.Load() {
		_, _, err := builds.Propose(ctx, n.raft, &buildsv1.NodeStopping{Name: n.cfg.Name, StoreId: n.cluster.StoreID(), BootId: n.bootID})
		if err != nil {
			n.log.Warn("cannot report to the cluster that this node stops", "err", err)
		}
	}
	if n.cluster.Status().Role == "Leader" && len(n.cluster.Members()) > 1 {
		if err := n.cluster.TransferLeadership(ctx, ""); err != nil && !errors.Is(err, cluster.ErrNoLeader) {
			n.log.Warn("cannot transfer leadership", "err", err)
		}
	}
}

// drain waits until this node runs no attempt, for at most shutdown.drain. The leader gives
// attempts whose workload can be adopted to other nodes, because handOver has reported that this
// node stops. All other attempts can only end here.
func (n *Node) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(n.cfg.Shutdown.Drain))
	defer cancel()
	for last := -1; ; {
		left := n.owner.Running()
		if left == 0 {
			return
		}
		if left != last {
			last = left
			n.log.Info("waiting for the builds that run on this node", "builds", last, "timeout", time.Duration(n.cfg.Shutdown.Drain))
		}
		if !ctxutil.Sleep(ctx, 50*time.Millisecond) {
			return
		}
	}
}
