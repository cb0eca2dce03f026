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

// keepLease stops this node's attempts when it hears no leader for too long,
// and makes a node known again that was taken for lost.
func (n *Node) keepLease(ctx context.Context) error {
	lease := time.Duration(n.cfg.Owner.Lease)
	held := false
	for ctxutil.Sleep(ctx, lease/20) {
		contact := n.cluster.Status().LastContact
		if heard := contact >= 0 && contact < lease; heard != held {
			if held = heard; !held {
				n.log.Warn("no leader is heard: stops the attempts of this node", "for", contact, "lease", lease)
			} else {
				n.owner.LeaseHeld()
			}
		}
		if !held {
			n.owner.LeaseLost()
			continue
		}
		var me *buildsv1.Node
		n.store.Read(func(st *builds.State) { me = st.Node(n.cfg.Name) })
		if n.started.Load() && (me.GetLost() || me.GetBootId() != n.bootID) {
			n.log.Info("the state does not know this process (any more): makes it known again")
			n.register(ctx)
		}
	}
	return nil
}
