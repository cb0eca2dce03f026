package cluster

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// How a dead process is told from a closed connection, and how candidates keep
// out of each other's way.
const (
	probeEvery = 5 * time.Millisecond
	probeFor   = 150 * time.Millisecond
	rankDelay  = 40 * time.Millisecond
)

// lossLoop looks after servers whose connections have ended. The kernel closes
// the sockets of a killed process at once, so that this is known long before
// any timer: the timers can be calm and the failover fast nevertheless. When
// an election starts does not matter to Raft's safety; a wrong guess costs one
// election.
func (n *Node) lossLoop(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case id := <-n.lost:
			_, leader := n.raft.Load().LeaderWithID()
			switch {
			case id == leader:
				n.suspectLeader(ctx, id)
			case n.raft.Load().State() == raft.Leader:
				n.suspectMember(ctx, id)
			}
		}
	}
}

// gone probes a server until its process has certainly ended (true), or is
// alive, or cannot be told dead (false).
func (n *Node) gone(ctx context.Context, id raft.ServerID, alive func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, probeFor)
	defer cancel()
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	for {
		if n.mayCall(id) != nil {
			return false
		}
		err := n.cfg.Network.Probe(ctx, n.addressOf(id))
		switch {
		case alive():
			return false
		case err != nil:
			// A host that is lost refuses nothing: only timers can tell.
			return isRefused(err)
		}
		// The listener may close a little after the first connection.
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
}

// suspectLeader begins an election if the leader's process has ended.
func (n *Node) suspectLeader(ctx context.Context, id raft.ServerID) {
	r := n.raft.Load()
	rank, votes := n.rank(id)
	if !votes || r.State() != raft.Follower {
		return
	}
	heard := r.LastContact()
	if !n.gone(ctx, id, func() bool { return r.LastContact() != heard }) {
		return
	}
	changed := func() bool {
		_, leader := r.LeaderWithID()
		return leader != id && leader != ""
	}
	t := time.NewTimer(rankDelay * time.Duration(rank))
	defer t.Stop()
	for !changed() {
		_, wake := n.leadership()
		select {
		case <-ctx.Done():
			return
		case <-wake: // somebody else may have won
			continue
		case <-t.C:
		}
		if !changed() {
			n.cfg.Logger.Info("the leader's process has ended: begins an election", "node", n.cfg.Name, "leader", id)
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			n.trans.elect(ctx)
		}
		return
	}
}

// rank is this node's place among the voters other than the leader.
func (n *Node) rank(leader raft.ServerID) (rank int, votes bool) {
	var voters []string
	for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter && s.ID != leader {
			voters = append(voters, string(s.ID))
		}
	}
	slices.SortFunc(voters, strings.Compare)
	rank = slices.Index(voters, string(n.serverID()))
	return rank, rank >= 0
}

// suspectMember notes on the leader that a member's process has ended.
func (n *Node) suspectMember(ctx context.Context, id raft.ServerID) {
	before := n.peers.get(id).answered
	if n.gone(ctx, id, func() bool { return n.peers.get(id).answered != before }) {
		if n.peers.died(id) {
			n.cfg.Logger.Info("a member's process has ended", "node", n.cfg.Name, "member", id)
		}
	}
}

var errAside = errors.New("the disk of this node is stuck: it is silent, so that another can lead")
