package cluster

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/image-builder-ha/image-builder/cluster/gossip"
	"github.com/image-builder-ha/image-builder/cluster/transport"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// local is the view that the network and gossip have of their node.
type local Node

var (
	_ transport.Local = (*local)(nil)
	_ gossip.Local    = (*local)(nil)
)

func (l *local) node() *Node { return (*Node)(l) }

// Identity returns the node's current identity.
func (l *local) Identity() *clusterv1.Identity { return l.node().identity() }

// Admission returns the check of a Raft connection of a node that expects the server id to here.
func (l *local) Admission() (admit func(from *clusterv1.Identity, to string) error) {
	n := l.node()
	floors := n.floors.all()
	return func(from *clusterv1.Identity, to string) error {
		return n.admitRaft(from, to, floors[raft.ServerID(from.GetServerId())])
	}
}

// admitRaft checks a Raft connection. A node that is in no cluster yet joins the caller's cluster:
// only a leader that has added this server id connects to it.
func (n *Node) admitRaft(from *clusterv1.Identity, to string, floor uint64) error {
	me := n.identity()
	if to != me.ServerId {
		return fmt.Errorf("the call is for server %q, this is %q: the data of that server is not here", to, me.ServerId)
	}
	if err := n.checkIdentity(from); err != nil {
		return err
	}
	if err := n.checkFloor(from, floor); err != nil {
		return err
	}
	if me.ClusterId != "" {
		return nil
	}
	if from.GetClusterId() == "" {
		return errors.New("neither node is in a cluster")
	}
	return n.adopt(from.GetClusterId())
}

// AddressOf returns the last known address of a server, or "".
func (l *local) AddressOf(id raft.ServerID) string { return l.node().addressOf(id) }

// Lost reports that a connection of the server has ended.
func (l *local) Lost(id raft.ServerID) { l.node().connectionLost(id) }

// Register registers the services of the peer API.
func (l *local) Register(r grpc.ServiceRegistrar) {
	n := l.node()
	clusterv1.RegisterPeerServer(r, peerAPI{node: n})
	clusterv1.RegisterRestoreServer(r, restoreAPI{node: n})
	for _, f := range n.cfg.Serve {
		f(r)
	}
}

// GossipAddresses returns the known addresses of gossip of the members.
func (l *local) GossipAddresses() map[string]string {
	n, out := l.node(), map[string]string{}
	for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
		if a := n.book.gossip(s.ID); a != "" {
			out[string(s.ID)] = a
		}
	}
	return out
}

// Announced notes the address that another node announces through gossip.
func (l *local) Announced(id *clusterv1.Identity) {
	n := l.node()
	if err := n.checkIdentity(id); err != nil {
		n.cfg.Logger.Warn("gossip shows a node that cannot be in this cluster", "node", id.GetServerId(), "reason", err)
		return
	}
	if n.book.get(raft.ServerID(id.GetServerId())) != id.GetAddress() {
		n.cfg.Logger.Debug("gossip shows a node at an address", "node", id.GetServerId(), "address", id.GetAddress())
	}
	n.book.note(id)
	select {
	case n.recheck <- struct{}{}: // the node at the new address may know the leader
	default:
	}
}
