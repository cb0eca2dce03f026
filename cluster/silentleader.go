package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

// watchSilentLeader starts an election when a majority has not heard the leader for longer than its
// lease, so that it leads no more. Raft's own timers are random and would need up to 1.5 s: each
// follower refuses to vote while its own timer runs, so the slowest one decides.
func (n *Node) watchSilentLeader(ctx context.Context) {
	t := time.NewTicker(reachInterval)
	defer t.Stop()
	next := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		r := n.raft.Load()
		_, leader := r.LeaderWithID()
		if leader == "" || time.Now().Before(next) || !n.lostContact(r, leader) {
			continue
		}
		rank, votes := n.rank(leader)
		if !votes || n.diskProblem() != nil || !n.othersLost(ctx, leader) {
			continue
		}
		n.campaign(ctx, leader, rank, "a majority does not hear the leader", func() bool { return n.lostContact(r, leader) })
		next = time.Now().Add(n.cfg.Election)
	}
}

// silenceTimeout returns how long a leader must be silent before a follower takes it for lost. It is
// longer than the lease by a part of the time that a message may be late.
func (n *Node) silenceTimeout() time.Duration { return max(n.cfg.Heartbeat, n.cfg.Lease) * 6 / 5 }

// lostContact reports whether this node follows a leader and has not heard it for silenceTimeout.
func (n *Node) lostContact(r *raft.Raft, leader raft.ServerID) bool {
	_, id := r.LeaderWithID()
	return id == leader && r.State() == raft.Follower && time.Since(r.LastContact()) >= n.silenceTimeout()
}

// askLostTimeout is how long a follower waits for the others to report when they heard the leader.
const askLostTimeout = 100 * time.Millisecond

// othersLost reports whether so many other voters have not heard a leader for its lease that they
// are a majority together with this node. It does not ask the leader.
func (n *Node) othersLost(ctx context.Context, leader raft.ServerID) bool {
	ctx, cancel := context.WithTimeout(ctx, askLostTimeout)
	defer cancel()
	term := n.raft.Load().CurrentTerm() // of the lost leader; a member in a later one may lead
	voters, need := n.voters()
	var others []raft.ServerID
	for _, id := range voters {
		if id != leader {
			others = append(others, id)
		}
	}
	pings := n.pingAll(ctx, others)
	for range others {
		select {
		case p := <-pings:
			contact := time.Duration(p.res.GetLastContactNanos())
			if p.res != nil && p.res.GetTerm() == term && (contact < 0 || contact >= max(n.cfg.Heartbeat, n.cfg.Lease)) {
				need--
			}
		case <-ctx.Done():
			return false
		}
		if need <= 0 {
			return true
		}
	}
	return false
}
