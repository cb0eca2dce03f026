package cluster

import (
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// local is the node as its network sees it.
type local Node

var _ Local = (*local)(nil)

func (l *local) node() *Node { return (*Node)(l) }

// Identity is who the node is now.
func (l *local) Identity() *clusterv1.Identity { return l.node().identity() }

func (n *Node) identity() *clusterv1.Identity {
	return &clusterv1.Identity{
		Cluster: n.cfg.Cluster, ClusterId: n.dir.current().ClusterID, ServerId: string(n.serverID()),
		Address: n.cfg.Network.Address(), Zone: n.cfg.Zone, FeatureLevel: n.cfg.FeatureLevel, BootId: n.cfg.BootID,
		GossipAddress: n.gossip.Load().address(),
	}
}

// Admit judges a Raft connection. A node that is in no cluster yet becomes a
// member of the caller's: only a leader that was told this store id calls it.
func (l *local) Admit(from *clusterv1.Identity, to string) error {
	n := l.node()
	me := n.identity()
	if to != me.ServerId {
		return fmt.Errorf("server %q was asked for, this is %q: the data of that server is not here", to, me.ServerId)
	}
	if err := n.fits(from); err != nil {
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

// fits reports why a node cannot be of the same cluster as this one.
func (n *Node) fits(from *clusterv1.Identity) error {
	me := n.identity()
	switch level := n.cfg.CommittedLevel(); {
	case from.GetCluster() != me.Cluster:
		return fmt.Errorf("node %s is of cluster %q, node %s of %q: configure the same cluster name", from.GetServerId(), from.GetCluster(), me.ServerId, me.Cluster)
	case me.ClusterId != "" && from.GetClusterId() != "" && from.GetClusterId() != me.ClusterId:
		return fmt.Errorf("node %s belongs to another cluster (id %s, this one is %s): give it an empty data directory to make it a new member", from.GetServerId(), from.GetClusterId(), me.ClusterId)
	case from.GetFeatureLevel() < level:
		return fmt.Errorf("node %s runs a version of feature level %d, the cluster is at %d: start a newer version", from.GetServerId(), from.GetFeatureLevel(), level)
	}
	return nil
}

// adopt makes the node a member of the cluster of that id, for good.
func (n *Node) adopt(id string) error {
	return n.dir.changeIf(func(d *identity) error {
		switch {
		case d.ClusterID == id:
			return nil
		case d.ClusterID != "":
			return fmt.Errorf("the node is in cluster %s already", d.ClusterID)
		case d.Promised != "" && d.Promised != id:
			return fmt.Errorf("the node has promised to form cluster %s with node %q, and was called by cluster %s", d.Promised, d.Proposer, id)
		}
		d.ClusterID, d.Initialized = id, true
		return nil
	})
}

// AddressOf answers where a server is, as far as is known.
func (l *local) AddressOf(id raft.ServerID) string { return l.node().addressOf(id) }

func (n *Node) addressOf(id raft.ServerID) string {
	if a := n.book.get(id); a != "" {
		return a
	}
	if r := n.raft.Load(); r != nil {
		for _, s := range r.GetConfiguration().Configuration().Servers {
			if s.ID == id {
				return string(s.Address)
			}
		}
	}
	return ""
}

// Lost tells that a connection of the server has ended.
func (l *local) Lost(id raft.ServerID) {
	select {
	case l.lost <- id:
	default: // enough to look at already
	}
}

// Register adds the peer API.
func (l *local) Register(r grpc.ServiceRegistrar) {
	n := l.node()
	clusterv1.RegisterPeerServer(r, peerAPI{node: n})
	for _, f := range n.cfg.Serve {
		f(r)
	}
}

// addressBook remembers where servers said that they are. It is newer than
// Raft's configuration, which cannot change without a leader.
type addressBook struct {
	mu sync.Mutex
	at map[raft.ServerID]string
	gs map[raft.ServerID]string // of gossip
}

func (b *addressBook) get(id raft.ServerID) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at[id]
}

func (b *addressBook) note(id *clusterv1.Identity) {
	if id.GetServerId() == "" || id.GetAddress() == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.at == nil {
		b.at, b.gs = map[raft.ServerID]string{}, map[raft.ServerID]string{}
	}
	b.at[raft.ServerID(id.GetServerId())] = id.GetAddress()
	if a := id.GetGossipAddress(); a != "" {
		b.gs[raft.ServerID(id.GetServerId())] = a
	}
}

// gossip answers where the gossip of a server is.
func (b *addressBook) gossip(id raft.ServerID) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gs[id]
}
