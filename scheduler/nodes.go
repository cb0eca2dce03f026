package scheduler

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Liveness tells the leader how the processes of the nodes are.
type Liveness interface {
	// Peer answers the process of a node that answered last ("" if none did in
	// this term), how long it is silent, and whether it has certainly ended.
	Peer(name, storeID string) (bootID string, silent time.Duration, dead bool)
	// Takes reports whether the node says that it can take builds.
	Takes(name, storeID string) bool
	// Member reports whether the node is a member of the cluster.
	Member(name, storeID string) bool
	// PeersChanged is closed when a process is heard again or found dead.
	PeersChanged() <-chan struct{}
}

// nodeInterval is how often the leader looks for nodes that are lost.
const nodeInterval = 250 * time.Millisecond

// alive reports whether a node can be given attempts now.
func (l *Leader) alive(n *buildsv1.Node) bool {
	if n.Lost || n.Stopping {
		return false
	}
	_, silent, dead := l.o.Nodes.Peer(n.Name, n.StoreId)
	return !dead && silent < l.o.LostAfter/2 && l.o.Nodes.Takes(n.Name, n.StoreId)
}

// watchNodes ends the attempts of nodes that are lost, forgets nodes that are
// no members any more, and gives up logs that nobody can seal.
func (l *Leader) watchNodes(ctx context.Context) {
	t := time.NewTicker(nodeInterval)
	defer t.Stop()
	stale, ended := map[string]time.Time{}, map[string]string{}
	for {
		changed := l.o.Nodes.PeersChanged()
		for _, c := range l.lostNodes(ended) {
			l.o.Log.Warn("a node is lost: its attempts are ended", "node", c.Name, "reason", c.Reason)
			l.propose(ctx, c)
		}
		now := time.Now()
		for _, c := range l.strangers(now, stale) {
			l.o.Log.Info("forgets a node that is no member any more", "node", c.Name, "store", c.StoreId)
			l.propose(ctx, c)
		}
		for _, c := range l.lostLogs(now, stale) {
			l.o.Log.Error("no node that held the log of an attempt is there: it is closed as lost", "build", c.BuildId, "attempt", c.Attempt)
			l.propose(ctx, c)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-t.C:
		}
	}
}

func (l *Leader) propose(ctx context.Context, payload proto.Message) {
	if _, _, err := builds.Propose(ctx, l.o.Raft, payload); err != nil && ctx.Err() == nil {
		l.o.Log.Warn("cannot commit what the leader found out about nodes, will try again", "command", payload.ProtoReflect().Descriptor().Name(), "err", err)
	}
}

// due reports whether something has been so for long enough. What is not asked
// about again for a while is forgotten by the caller.
func due(stale map[string]time.Time, key string, now time.Time, after time.Duration) bool {
	since, ok := stale[key]
	if !ok {
		stale[key] = now
		return false
	}
	return now.Sub(since) >= after
}

// strangers are nodes of the state that are no members for a while: one that
// joins is known to the state a little earlier or later.
func (l *Leader) strangers(now time.Time, stale map[string]time.Time) (out []*buildsv1.ForgetNode) {
	view := l.o.Store.View()
	if view.Level() < 2 {
		return nil
	}
	view.Nodes(func(n *buildsv1.Node) bool {
		key := "node " + n.Name + "/" + n.StoreId
		if l.o.Nodes.Member(n.Name, n.StoreId) {
			delete(stale, key)
		} else if due(stale, key, now, 2*l.o.LostAfter) {
			out = append(out, &buildsv1.ForgetNode{Name: n.Name, StoreId: n.StoreId})
		}
		return true
	})
	return out
}

// lostLogs are logs that wait for a seal, and no node that holds a copy is
// there.
func (l *Leader) lostLogs(now time.Time, stale map[string]time.Time) (out []*buildsv1.SealAttempt) {
	view := l.o.Store.View()
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
				delete(stale, key)
			} else if due(stale, key, now, l.o.FenceTimeout) {
				out = append(out, &buildsv1.SealAttempt{BuildId: r.Build.Id, Attempt: a.Number, Epoch: a.Epoch, Lost: true})
			}
		}
		return true
	})
	return out
}

// lostNodes are nodes whose process has ended, or is silent. ended remembers,
// of nodes that have not answered in this term, which process that was: the
// next one must not be taken for it.
func (l *Leader) lostNodes(ended map[string]string) (lost []*buildsv1.NodeLost) {
	view := l.o.Store.View()
	if view.Level() < 2 {
		return nil
	}
	view.Nodes(func(n *buildsv1.Node) bool {
		if n.Lost {
			return true
		}
		boot, silent, dead := l.o.Nodes.Peer(n.Name, n.StoreId)
		key := n.Name + "/" + n.StoreId
		if !dead {
			delete(ended, key)
		} else if boot == "" {
			if _, ok := ended[key]; !ok {
				ended[key] = n.BootId
			}
			boot = ended[key]
		}
		reason := ""
		switch {
		case dead && boot == n.BootId:
			reason = "its process ended"
		case silent > l.o.LostAfter:
			reason = fmt.Sprintf("it did not answer for %s", l.o.LostAfter)
		default:
			return true
		}
		lost = append(lost, &buildsv1.NodeLost{Name: n.Name, StoreId: n.StoreId, BootId: n.BootId, Reason: reason})
		return true
	})
	return lost
}
