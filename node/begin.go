package node

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// begin tells the state that this process runs, which ends the attempts of the
// former one, and then runs the attempts that the leader gives to the node.
func (n *Node) begin(ctx context.Context) error {
	if !n.register(ctx) {
		return nil
	}
	n.started.Store(true)
	n.log.Info("node serves", "node", n.cfg.Name, "store", n.cluster.StoreID())
	var wg sync.WaitGroup
	defer wg.Wait()
	// Not before: turns of the former process are not this one's.
	wg.Go(func() { n.refresh(ctx) })
	wg.Go(func() { n.prewarm(ctx) })
	return n.owner.Run(ctx)
}

// register tells the state about this process, and reports whether it could
// before ctx ended.
func (n *Node) register(ctx context.Context) bool {
	for {
		_, _, err := builds.Propose(ctx, n.raft, &buildsv1.NodeStarted{
			Name: n.cfg.Name, StoreId: n.cluster.StoreID(), BootId: n.bootID, Zone: n.cfg.Cluster.Zone,
			Capacity: uint32(n.cfg.Builds.RunningPerNode), Runtimes: slices.Sorted(maps.Keys(n.runtimes)),
		})
		if err == nil {
			return true
		}
		if !ctxutil.Sleep(ctx, 100*time.Millisecond) {
			return false
		}
	}
}
