package node

import (
	"context"
	"fmt"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/placement"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
)

// leaveTimeout is how long a node that is removed by scaling down waits until other nodes have
// copies of its logs. After it the node stays a member, because its disk is needed.
const leaveTimeout = 45 * time.Second

// scaledDown reports whether the stateful set was scaled down, so that the pod of this node will
// not come back. If so, scaledDown drains the node, and the cluster moves its attempts and copies
// of logs to other nodes. It returns false, and logs the cause, if it cannot read the stateful set
// or cannot drain.
func (n *Node) scaledDown() bool {
	k := n.cfg.Cluster.Kubernetes
	if !k.ScaleDown || !n.started.Load() || n.level() < 2 {
		return false
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	leaving, err := false, error(nil)
	if client, cerr := n.kubernetesAPI(); cerr != nil {
		err = cerr
	} else if leaving, err = kubernetes.ScaledAway(ctx, client, k.Namespace, n.cfg.Name); err == nil && leaving {
		n.log.Info("the stateful set was scaled down: this node leaves the cluster for good")
		err = n.drainToLeave(ctx)
	}
	if err != nil {
		n.logStays(err)
	}
	return leaving && err == nil
}

// drainToLeave drains this node, and remembers whether an operator had drained it before.
func (n *Node) drainToLeave(ctx context.Context) error {
	n.store.Read(func(st *builds.State) { n.drainedByOperator = st.Node(n.cfg.Name).GetDrained() })
	return n.setDrained(ctx, true)
}

// setDrained commits whether this node is drained.
func (n *Node) setDrained(ctx context.Context, drained bool) error {
	_, _, err := builds.Propose(ctx, n.raft, &buildsv1.DrainNode{Name: n.cfg.Name, Drained: drained})
	return err
}

// leave removes this node from the cluster once other nodes hold copies of all its logs. A node
// that stops without leaving still counts for majorities until it is pruned. If it cannot leave
// within leaveTimeout, it ends the drain that drainToLeave began, and stays a member.
func (n *Node) leave(work context.Context) {
	ctx, cancel := context.WithTimeout(work, leaveTimeout)
	defer cancel()
	err := n.awaitLogCopies(ctx)
	if err == nil {
		n.cluster.Leave(true) // this process still runs, and must not join again
		_, err = clusterAPI{node: n, waits: true}.RemoveNode(ctx, &imagebuilderv1.RemoveNodeRequest{Node: n.cluster.ServerID()})
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
		n.log.Warn("this node stays drained: run `image-builder cluster undrain` when it is back", "err", err)
	}
}

// logStays logs why the node does not leave the cluster.
func (n *Node) logStays(err error) {
	n.log.Warn("this node stays a member: if it does not come back, drain and remove it with `image-builder cluster`", "err", err)
}

// awaitLogCopies waits until every log of this node has a copy on a node that stays. Owners of
// copies move them, because this node is drained.
func (n *Node) awaitLogCopies(ctx context.Context) error {
	for last := -1; ; {
		held := soleLogs(n.store.View(), n.cfg.Name, n.cluster.StoreID())
		if held == 0 {
			return nil
		}
		if held != last {
			last = held
			n.log.Info("waiting for copies of the logs that only leaving nodes hold", "logs", held)
		}
		if !ctxutil.Sleep(ctx, 100*time.Millisecond) {
			return fmt.Errorf("%d logs have no copy on a node that stays: keep the disk of this node", held)
		}
	}
}

// soleLogs returns the number of logs that have a copy on a node and none on another node that
// stays. Nodes that are lost or drained do not stay. It is a pure function.
func soleLogs(view *builds.State, name, storeID string) (n int) {
	now := time.Unix(0, view.Time())
	view.CopySets(func(a *imagebuilderv1.Attempt, logs int) bool {
		mine := builds.HasCopy(builds.CopiesOf(a), name, storeID)
		// -1: a copy on a lost node never counts, even if the node was lost just now.
		if keep, _, _ := placement.SoundCopies(view, now, -1, a); mine && len(keep) == 0 {
			n += logs
		}
		return true
	})
	return n
}
