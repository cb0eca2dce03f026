package scheduler

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// nodeInterval is the time between checks of the nodes. A change of a node starts a check at once.
const nodeInterval = 250 * time.Millisecond

// nodeWatcher finds nodes that are lost or are no longer members, and logs without a node that
// could seal them. It belongs to one term.
type nodeWatcher struct {
	LeaderOptions
	// since has the time at which a condition was first seen, by the key of its subject.
	since map[string]time.Time
	// ended has the boot id of the ended process of a node that has not responded in this term. The
	// next process of the node must not be mistaken for the ended one.
	ended map[string]string
}

// watchNodes ends the attempts of lost nodes, removes nodes from the state that are no longer
// members, and closes logs as lost that no node can seal. It returns when ctx ends.
func watchNodes(ctx context.Context, o LeaderOptions) {
	w := &nodeWatcher{LeaderOptions: o, since: map[string]time.Time{}, ended: map[string]string{}}
	t := time.NewTicker(nodeInterval)
	defer t.Stop()
	for {
		changed := w.Nodes.PeersChanged()
		w.check(ctx)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-t.C:
		}
	}
}

// check proposes the commands for all that is lost now.
func (w *nodeWatcher) check(ctx context.Context) {
	for _, c := range w.lostNodes() {
		w.Log.Warn("a node is lost: its attempts are ended", "node", c.Name, "reason", c.Reason)
		w.propose(ctx, c)
	}
	now := time.Now()
	for _, c := range w.formerMembers(now) {
		w.Log.Info("a node is no member of the cluster any more: it is removed from the state", "node", c.Name, "store", c.StoreId)
		w.propose(ctx, c)
	}
	for _, c := range w.lostLogs(now) {
		w.Log.Error("no node that holds the log of a dead attempt is up: the log is closed as lost", "build", c.BuildId, "attempt", c.Attempt)
		w.propose(ctx, c)
	}
}

func (w *nodeWatcher) propose(ctx context.Context, payload proto.Message) {
	res, _, err := builds.Propose(ctx, w.Raft, payload)
	for err == nil && res.More {
		res, _, err = builds.Propose(ctx, w.Raft, payload)
	}
	if err != nil && ctx.Err() == nil {
		w.Log.Warn("cannot commit a change of a node or of a log, will try again", "command", payload.ProtoReflect().Descriptor().Name(), "err", err)
	}
}

// lastsFor reports whether a condition has been seen for at least d. The caller deletes the key
// from since when the condition ends.
func (w *nodeWatcher) lastsFor(d time.Duration, key string, now time.Time) bool {
	since, ok := w.since[key]
	if !ok {
		w.since[key] = now
		return false
	}
	return now.Sub(since) >= d
}

// formerMembers returns commands for nodes of the state that have been no members for a while. The
// delay is for a node that joins: the state may know it a little earlier than the cluster does.
func (w *nodeWatcher) formerMembers(now time.Time) (out []*buildsv1.ForgetNode) {
	view := w.Store.View()
	if view.Level() < 2 {
		return nil
	}
	view.Nodes(func(n *buildsv1.Node) bool {
		key := "node " + n.Name + "/" + n.StoreId
		if w.Nodes.Member(n.Name, n.StoreId) {
			delete(w.since, key)
		} else if w.lastsFor(2*w.LostAfter, key, now) {
			out = append(out, &buildsv1.ForgetNode{Name: n.Name, StoreId: n.StoreId})
		}
		return true
	})
	return out
}

// lostLogs returns commands for logs that must be sealed and have had no sealer for FenceTimeout,
// because no node that holds a copy runs.
func (w *nodeWatcher) lostLogs(now time.Time) (out []*buildsv1.SealAttempt) {
	view := w.Store.View()
	if view.Level() < 2 {
		return nil
	}
	view.Sealing(func(r *buildsv1.Record) bool {
		for _, a := range r.Build.Attempts {
			if a.Log.GetState() != builds.LogSealing {
				continue
			}
			key := fmt.Sprintf("log %s %d", r.Build.Id, a.Number)
			if a.Log.Sealer != nil {
				delete(w.since, key)
			} else if w.lastsFor(w.FenceTimeout, key, now) {
				out = append(out, &buildsv1.SealAttempt{BuildId: r.Build.Id, Attempt: a.Number, Epoch: a.Epoch, Lost: true})
			}
		}
		return true
	})
	return out
}

// lostNodes returns commands for nodes whose process has ended, or has not responded or made no
// progress for LostAfter.
func (w *nodeWatcher) lostNodes() (lost []*buildsv1.NodeLost) {
	view := w.Store.View()
	if view.Level() < 2 {
		return nil
	}
	view.Nodes(func(n *buildsv1.Node) bool {
		if n.Lost {
			if view.Bound(n.Name) { // a former leader did not end all attempts
				lost = append(lost, &buildsv1.NodeLost{Name: n.Name, StoreId: n.StoreId, BootId: n.BootId, Reason: "it was lost before"})
			}
			return true
		}
		boot, silent, dead := w.Nodes.Peer(n.Name, n.StoreId)
		key := n.Name + "/" + n.StoreId
		if !dead {
			delete(w.ended, key)
		} else if boot == "" {
			if _, ok := w.ended[key]; !ok {
				w.ended[key] = n.BootId
			}
			boot = w.ended[key]
		}
		reason := ""
		switch {
		case dead && boot == n.BootId:
			reason = "its process ended"
		case silent > w.LostAfter:
			reason = fmt.Sprintf("it has not responded for %s", w.LostAfter)
		default:
			what, stalled := w.Nodes.Stalled(n.Name, n.StoreId)
			if stalled <= w.LostAfter || boot != n.BootId {
				return true
			}
			reason = fmt.Sprintf("%s has been in progress for more than %s", what, w.LostAfter)
		}
		lost = append(lost, &buildsv1.NodeLost{Name: n.Name, StoreId: n.StoreId, BootId: n.BootId, Reason: reason})
		return true
	})
	return lost
}
