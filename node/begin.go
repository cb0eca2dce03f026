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
func (s *Node) begin(ctx context.Context) error {
	if !s.register(ctx) {
		return nil
	}
	s.started.Store(true)
	s.log.Info("node serves", "node", s.cfg.Name, "store", s.cluster.StoreID())
	var wg sync.WaitGroup
	defer wg.Wait()
	// Not before: turns of the former process are not this one's.
	wg.Go(func() { s.refresh(ctx) })
	wg.Go(func() { s.prewarm(ctx) })
	return s.owner.Run(ctx)
}

// register tells the state about this process, and reports whether it could
// before ctx ended.
func (s *Node) register(ctx context.Context) bool {
	for {
		_, _, err := builds.Propose(ctx, s.raft, &buildsv1.NodeStarted{
			Name: s.cfg.Name, StoreId: s.cluster.StoreID(), BootId: s.boot, Zone: s.cfg.Cluster.Zone,
			Capacity: uint32(s.cfg.Builds.RunningPerNode), Runtimes: slices.Sorted(maps.Keys(s.runtimes)),
		})
		if err == nil {
			return true
		}
		if !ctxutil.Sleep(ctx, 100*time.Millisecond) {
			return false
		}
	}
}
