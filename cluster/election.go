package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

// Timing of the detection of ended processes and of the elections that follow. electionStagger is
// the delay between two candidates, so that they do not compete.
const (
	probeInterval   = 5 * time.Millisecond
	probeTimeout    = 150 * time.Millisecond
	electionStagger = 40 * time.Millisecond
)

// lossLoop handles servers whose connections have ended. The kernel closes the sockets of a killed
// process at once, long before any timeout of Raft expires. So the timeouts can be long and the
// failover is fast nevertheless. Raft is safe whenever an election starts: a wrong guess costs one
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

// processEnded probes a server and reports whether its process has certainly ended. It returns
// false if alive returns true, or if the probes give no certain result within probeTimeout.
func (n *Node) processEnded(ctx context.Context, id raft.ServerID, alive func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	t := time.NewTicker(probeInterval)
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
			// A lost host does not refuse connections: only Raft's timeouts can detect it.
			return isRefused(err)
		}
		// The listener may close a little after the first connection: probe again.
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
}

// suspectLeader starts an election if the process of the leader has ended.
func (n *Node) suspectLeader(ctx context.Context, id raft.ServerID) {
	r := n.raft.Load()
	rank, votes := n.rank(id)
	if !votes || r.State() != raft.Follower || n.diskProblem() != nil {
		return
	}
	heard := r.LastContact()
	if !n.processEnded(ctx, id, func() bool { return r.LastContact() != heard }) {
		return
	}
	n.campaign(ctx, id, electionStagger*time.Duration(rank), "the leader's process has ended", func() bool {
		_, leader := r.LeaderWithID()
		return leader == id || leader == ""
	})
}

// campaign waits for a delay, and then starts an election if lost still reports that there is no
// leader. id is the former leader.
func (n *Node) campaign(ctx context.Context, id raft.ServerID, delay time.Duration, why string, lost func() bool) {
	t := time.NewTimer(delay)
	defer t.Stop()
	for lost() {
		_, wake := n.leadership()
		select {
		case <-ctx.Done():
			return
		case <-wake: // another candidate may have won
			continue
		case <-t.C:
		}
		if lost() {
			n.cfg.Logger.Info(why+": begins an election", "node", n.cfg.Name, "leader", id)
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			n.trans.Elect(ctx)
		}
		return
	}
}

// suspectMember records, on the leader, that the process of a member has ended.
func (n *Node) suspectMember(ctx context.Context, id raft.ServerID) {
	term := n.peers.begun()
	before := n.peers.get(id).pingAt
	if n.processEnded(ctx, id, func() bool { return n.peers.get(id).pingAt != before }) {
		if n.peers.died(term, id) {
			n.cfg.Logger.Info("a member's process has ended", "node", n.cfg.Name, "member", id)
		}
	}
}
