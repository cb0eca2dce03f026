package node

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/faults"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// begin registers this process in the replicated state, which ends the attempts of the former
// process of this node. Then it runs the attempts and refreshes that the leader assigns to the
// node, until ctx ends.
func (n *Node) begin(ctx context.Context) error {
	if !n.register(ctx) {
		return nil
	}
	n.started.Store(true)
	n.log.Info("node is registered and takes work", "node", n.cfg.Name, "store", n.cluster.StoreID())
	var wg sync.WaitGroup
	defer wg.Wait()
	// Refreshes start after the registration: before it, the state may still assign refreshes to
	// the former process.
	wg.Go(func() { n.refresh(ctx) })
	wg.Go(func() { n.prewarm(ctx) })
	return n.owner.Run(ctx)
}

// register commits NodeStarted for this process. It retries until it succeeds, and returns false if
// ctx ends before.
func (n *Node) register(ctx context.Context) bool {
	for {
		res, _, err := builds.Propose(ctx, n.raft, &buildsv1.NodeStarted{
			Name: n.cfg.Name, StoreId: n.cluster.StoreID(), BootId: n.bootID, Zone: n.cfg.Cluster.Zone,
			Capacity: uint32(n.cfg.Builds.RunningPerNode), Runtimes: slices.Sorted(maps.Keys(n.runtimes)),
		})
		if err == nil && !res.More {
			return true
		}
		if err == nil {
			continue // the attempts of the former process end in batches
		}
		if !ctxutil.Sleep(ctx, 100*time.Millisecond) {
			return false
		}
	}
}

// keepLease stops the attempts of this node when it has heard no leader, or has made no progress,
// for the lease (owner.lease), because the leader will soon call the node lost. If the state
// contains the node as lost, keepLease registers this process again, but only when the node hears a
// leader and makes progress. Otherwise it would be lost again. keepLease returns after ctx has
// ended.
func (n *Node) keepLease(ctx context.Context) error {
	lease := time.Duration(n.cfg.Owner.Lease)
	held := false
	for ctxutil.Sleep(ctx, lease/20) {
		contact, stall := n.cluster.Status().LastContact, n.cluster.Stalled()
		if holds := contact >= 0 && contact < lease && (stall.For < lease || faults.Mutant("a-hanging-node-keeps-its-lease")); holds != held {
			switch held = holds; {
			case held:
				n.owner.LeaseHeld()
			case stall.For >= lease:
				n.log.Error("this node makes no progress: stopping its attempts", "reason", stall.String(), "lease", lease)
			default:
				n.log.Warn("no contact with a leader: stopping the attempts of this node", "for", contact, "lease", lease)
			}
		}
		if !held {
			n.owner.LeaseLost()
			continue
		}
		var me *buildsv1.Node
		n.store.Read(func(st *builds.State) { me = st.Node(n.cfg.Name) })
		if n.started.Load() && (me.GetLost() || me.GetBootId() != n.bootID) {
			n.log.Info("the replicated state does not contain this process: registering it again")
			n.register(ctx)
		}
	}
	return nil
}
