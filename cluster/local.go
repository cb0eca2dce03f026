package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// local is the view that the Network has of its node.
type local Node

var _ Local = (*local)(nil)

func (l *local) node() *Node { return (*Node)(l) }

// Identity returns the node's current identity.
func (l *local) Identity() *clusterv1.Identity { return l.node().identity() }

func (n *Node) identity() *clusterv1.Identity {
	return &clusterv1.Identity{
		Cluster: n.cfg.Cluster, ClusterId: n.dir.Identity().ClusterID, ServerId: string(n.serverID()),
		Address: n.cfg.Network.Address(), Zone: n.cfg.Zone, FeatureLevel: n.cfg.FeatureLevel, BootId: n.cfg.BootID,
		GossipAddress: n.gossip.Load().address(), LastIndex: n.lastIndex(),
	}
}

// introduction returns the identity that a joining node presents: with the names of its keys.
func (n *Node) introduction() *clusterv1.Identity {
	id := n.identity()
	id.Keys = n.keys()
	return id
}

func (n *Node) keys() (out []string) {
	if n.cfg.Keys != nil {
		out = n.cfg.Keys()
	}
	if n.cfg.Gossip != nil {
		for _, k := range n.cfg.Gossip.Keys.names() {
			out = append(out, "gossip/"+k)
		}
	}
	return out
}

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

// checkIdentity returns an error if a node cannot be in the same cluster as this one.
func (n *Node) checkIdentity(from *clusterv1.Identity) error {
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

// checkNewMember returns an error if a node cannot become a member: it passes checkIdentity, and
// shares a key of each kind that both nodes have. The keys of a member are not checked, so that a
// key rotation in the wrong order does not cost the quorum.
func (n *Node) checkNewMember(from *clusterv1.Identity) error {
	if err := n.checkIdentity(from); err != nil {
		return err
	}
	return sharesKeys(from.GetServerId(), from.GetKeys(), n.keys())
}

func sharesKeys(who string, theirs, ours []string) error {
	byKind := func(keys []string) map[string][]string {
		m := map[string][]string{}
		for _, k := range keys {
			kind, name, _ := strings.Cut(k, "/")
			m[kind] = append(m[kind], name)
		}
		return m
	}
	have := byKind(ours)
	for kind, names := range byKind(theirs) {
		here := have[kind]
		if len(here) > 0 && !slices.ContainsFunc(names, func(k string) bool { return slices.Contains(here, k) }) {
			return fmt.Errorf("node %s holds none of the %s keys of this cluster (it holds %s, here are %s): give it the same key file",
				who, kind, strings.Join(names, " "), strings.Join(here, " "))
		}
	}
	return nil
}

// refuse logs, at most once in a while, that a node was refused, and returns reason as a gRPC
// error.
func (n *Node) refuse(what string, from *clusterv1.Identity, reason error) error {
	if n.refusals.allow(from.GetServerId() + reason.Error()) {
		n.cfg.Logger.Warn("refused a node that wants to "+what, "node", from.GetServerId(), "address", from.GetAddress(), "reason", reason)
	}
	return status.Error(codes.FailedPrecondition, reason.Error())
}

// adopt makes the node a member of the cluster with the given id. It returns an error if the node
// is in another cluster or has promised to form another one.
func (n *Node) adopt(id string) error {
	return n.dir.Change(func(d *datadir.Identity) error {
		switch {
		case d.ClusterID == id:
			return nil
		case d.ClusterID != "":
			return fmt.Errorf("the node is in cluster %s already", d.ClusterID)
		case d.Promised != "" && d.Promised != id:
			return fmt.Errorf("the node has promised to form cluster %s with node %q, but was called by cluster %s", d.Promised, d.Proposer, id)
		}
		d.ClusterID, d.Initialized = id, true
		return nil
	})
}

// AddressOf returns the last known address of a server, or "".
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

// Lost reports that a connection of the server has ended.
func (l *local) Lost(id raft.ServerID) {
	select {
	case l.lost <- id:
	default: // the queue is full: lossLoop has enough work
	}
}

// Register registers the services of the peer API.
func (l *local) Register(r grpc.ServiceRegistrar) {
	n := l.node()
	clusterv1.RegisterPeerServer(r, peerAPI{node: n})
	clusterv1.RegisterRestoreServer(r, restoreAPI{node: n})
	for _, f := range n.cfg.Serve {
		f(r)
	}
}

// addressBook holds the addresses that servers have reported. It can be newer than Raft's
// configuration, which cannot change without a leader.
type addressBook struct {
	mu         sync.Mutex
	peerAddr   map[raft.ServerID]string // of the peer ports
	gossipAddr map[raft.ServerID]string // of gossip
}

func (b *addressBook) get(id raft.ServerID) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.peerAddr[id]
}

func (b *addressBook) note(id *clusterv1.Identity) {
	if id.GetServerId() == "" || id.GetAddress() == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.peerAddr == nil {
		b.peerAddr, b.gossipAddr = map[raft.ServerID]string{}, map[raft.ServerID]string{}
	}
	b.peerAddr[raft.ServerID(id.GetServerId())] = id.GetAddress()
	if a := id.GetGossipAddress(); a != "" {
		b.gossipAddr[raft.ServerID(id.GetServerId())] = a
	}
}

// gossip returns the address of the gossip port of a server, or "".
func (b *addressBook) gossip(id raft.ServerID) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gossipAddr[id]
}
