package scheduler

import (
	"context"
	"fmt"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Liveness tells the leader how the processes of the nodes are.
type Liveness interface {
	// Peer answers the process of a node that answered last ("" if none did in
	// this term), how long it is silent, and whether it has certainly ended.
	Peer(name, storeID string) (bootID string, silent time.Duration, dead bool)
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
	return !dead && silent < l.o.LostAfter/2
}

// watchNodes ends the attempts of nodes that are lost.
func (l *Leader) watchNodes(ctx context.Context) {
	t := time.NewTicker(nodeInterval)
	defer t.Stop()
	for {
		changed := l.o.Nodes.PeersChanged()
		for _, c := range l.lostNodes() {
			l.o.Log.Warn("a node is lost: its attempts are ended", "node", c.Name, "reason", c.Reason)
			if _, _, err := builds.Propose(ctx, l.o.Raft, c); err != nil && ctx.Err() == nil {
				l.o.Log.Warn("cannot commit that a node is lost, will try again", "node", c.Name, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-t.C:
		}
	}
}

func (l *Leader) lostNodes() (lost []*buildsv1.NodeLost) {
	view := l.o.Store.View()
	if view.Level() < 2 {
		return nil
	}
	view.Nodes(func(n *buildsv1.Node) bool {
		if n.Lost {
			return true
		}
		boot, silent, dead := l.o.Nodes.Peer(n.Name, n.StoreId)
		reason := ""
		switch {
		case dead && (boot == "" || boot == n.BootId):
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
