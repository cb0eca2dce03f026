package cluster

import (
	"cmp"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/serverid"
	"github.com/image-builder-ha/image-builder/faults"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// heardTimeout is how long a node counts the leader as alive after it has heard from it.
const heardTimeout = 3 * time.Second

// Peer describes a member as the leader sees it.
type Peer struct {
	// BootID identifies the process that responded last; empty if none did in this leader's term.
	BootID string
	// Silent is the time since the last response, or since the start of the leader's term.
	Silent time.Duration
	// Dead means that the member's process has certainly ended: its connections have closed, and
	// its host refuses new ones.
	Dead bool
	// Stall is the operation that the member had not finished at its last response. Members up to
	// version 0.3.0 do not report it: it is the zero value.
	Stall Stall
	// RefusesBuilds means that the member reports that it cannot take builds.
	RefusesBuilds bool
}

// Peer returns what this node, as the leader, knows about a member. For this node itself the result
// is never silent or dead.
func (n *Node) Peer(name, storeID string) Peer {
	id := serverid.New(name, storeID)
	if id == n.serverID() {
		return Peer{BootID: n.cfg.BootID, Stall: n.Stalled(), RefusesBuilds: n.report().GetRefusesBuilds()}
	}
	s := n.peers.get(id)
	p := Peer{Silent: n.peers.silent(s), Dead: s.dead}
	if s.ping != nil {
		p.BootID, p.RefusesBuilds = s.ping.GetNode().GetBootId(), s.ping.GetRefusesBuilds()
		if p.Stall = stallOf(s.ping.GetProgress()); faults.Mutant("a-hanging-disk-is-no-loss") {
			p.Stall = Stall{}
		}
	}
	return p
}

// PeersChanged returns a channel that is closed when a member responds again or is found dead. To
// miss no change, call it before Peer.
func (n *Node) PeersChanged() <-chan struct{} { return n.peers.next() }

// Member is one server of the cluster as this node sees it.
type Member struct {
	ServerID, Name, Address, Zone string
	Voter, Leader                 bool
	// Answer is the last response to a ping of this leader; nil on nodes that do not lead, and for
	// members that did not respond.
	Answer *clusterv1.PingResponse
	// Silent is the time since the last response, as in Peer.
	Silent time.Duration
	Dead   bool
	// Heard means that this node, which does not lead, has itself heard from the member within
	// heardTimeout as its leader, or that gossip shows the member.
	Heard bool
	// Skew is how far the member's clock is ahead of the leader's.
	Skew time.Duration
}

// Members returns the servers of Raft's configuration, sorted by server id. Only on the leader the
// result includes the members' responses.
func (n *Node) Members() []Member {
	r := n.raft.Load()
	if r == nil {
		return nil
	}
	_, leader := r.LeaderWithID()
	shown := n.gossip.Load().Members()
	var out []Member
	for _, s := range r.GetConfiguration().Configuration().Servers {
		m := Member{
			ServerID: string(s.ID), Name: serverid.Name(s.ID), Address: n.addressOf(s.ID),
			Voter: s.Suffrage == raft.Voter, Leader: s.ID == leader,
		}
		if s.ID == n.serverID() {
			m.Answer, m.Zone = n.report(), n.cfg.Zone
		} else if n.leading() {
			p := n.peers.get(s.ID)
			m.Answer, m.Dead, m.Skew = p.ping, p.dead, p.offset
			m.Zone = p.ping.GetNode().GetZone()
			m.Silent = n.peers.silent(p)
		} else {
			m.Heard = shown[string(s.ID)] || m.Leader && time.Since(r.LastContact()) < heardTimeout
		}
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Member) int { return cmp.Compare(a.ServerID, b.ServerID) })
	return out
}
