package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/owner"
)

// leaveTime bounds how long a node that was scaled away gives its logs to others
// before it gives up its membership. One that does not get that far stays a
// member, since its disk is needed.
const leaveTimeout = 45 * time.Second

// scaledAway reports whether this node's pod does not come back. If so it is
// drained: attempts and copies of logs move to other nodes.
func (n *Node) scaledDown() bool {
	k := n.cfg.Cluster.Kubernetes
	if !k.ScaleDown || !n.started.Load() || n.level() < 2 {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	leaving, err := false, error(nil)
	if client, cerr := n.peersAPI(); cerr != nil {
		err = cerr
	} else if leaving, err = kubernetes.ScaledAway(ctx, client, k.Namespace, n.cfg.Name); err == nil && leaving {
		n.log.Info("the stateful set has been scaled down: this node leaves the cluster for good")
		err = n.drainToLeave(ctx)
	}
	if err != nil {
		n.logStays(err)
	}
	return leaving && err == nil
}

// drainToLeave drains this node, and remembers whether somebody else has.
func (n *Node) drainToLeave(ctx context.Context) error {
	n.store.Read(func(st *builds.State) { n.drainedByOperator = st.Node(n.cfg.Name).GetDrained() })
	return n.setDrained(ctx, true)
}

func (n *Node) setDrained(ctx context.Context, drained bool) error {
	_, _, err := builds.Propose(ctx, n.raft, &buildsv1.DrainNode{Name: n.cfg.Name, Drained: drained})
	return err
}

// leave gives up the membership of a node that was scaled away, once no log
// needs its disk: else it would be counted for majorities until it is pruned.
func (n *Node) leave(work context.Context) {
	ctx, cancel := context.WithTimeout(work, leaveTimeout)
	defer cancel()
	err := n.awaitLogCopies(ctx)
	if err == nil {
		n.cluster.Leave(true) // this process lives for a while yet
		_, err = clusterAPI{node: n}.RemoveNode(ctx, &imagebuilderv1.RemoveNodeRequest{Node: n.cluster.ServerID()})
	}
	if err == nil {
		return
	}
	n.cluster.Leave(false)
	n.logStays(err)
	if n.drainedByOperator {
		return
	}
	ctx, cancel = context.WithTimeout(work, 2*time.Second)
	defer cancel()
	if err := n.setDrained(ctx, false); err != nil {
		n.log.Warn("this node stays drained; when it comes back: `image-builder cluster undrain`", "err", err)
	}
}

func (n *Node) logStays(err error) {
	n.log.Warn("this node stays a member; if it does not come back, drain and remove it by `image-builder cluster`", "err", err)
}

// giveLogs waits until each log that this node holds is held by a node that
// stays.
func (n *Node) awaitLogCopies(ctx context.Context) error {
	for last := -1; ; {
		held := soleLogs(n.store.View(), n.cfg.Name, n.cluster.StoreID())
		if held == 0 {
			return nil
		}
		if held != last {
			last = held
			n.log.Info("waits until others hold the logs that only nodes hold that leave", "logs", held)
		}
		if !ctxutil.Sleep(ctx, 100*time.Millisecond) {
			return errors.New(fmt.Sprint(held, " logs are on no other node that stays: keep its disk"))
		}
	}
}

// needed counts the logs of which a node holds a copy, and no node that stays
// does: pure.
func soleLogs(view *builds.State, name, storeID string) (n int) {
	now := time.Unix(0, view.Time())
	view.All(func(r *buildsv1.Record) bool {
		for _, a := range r.Build.Attempts {
			if s := a.GetLog().GetState(); s != builds.LogOpen && s != builds.LogSealing && s != builds.LogSealed {
				continue
			}
			mine := false
			for _, c := range builds.CopiesOf(a) {
				mine = mine || c.Node == name && c.StoreId == storeID
			}
			// -1: a node that is lost counts for nothing, also if that is the last
			// thing that the state knows.
			if keep, _, _ := owner.Sound(view, now, -1, a); mine && len(keep) == 0 {
				n++
			}
		}
		return true
	})
	return n
}
