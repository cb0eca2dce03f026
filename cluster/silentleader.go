package cluster

import (
	"cmp"
	"context"
	"slices"
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
		term := r.CurrentTerm()
		if time.Now().Before(next) || !n.lostContact(r, term, leader) {
			continue
		}
		if _, votes := n.rank(leader); !votes || n.diskProblem() != nil {
			continue
		}
		rank, lost := n.othersLost(ctx, term, leader)
		if !lost {
			continue
		}
		n.campaign(ctx, leader, time.Duration(rank)*logStagger, "a majority does not hear the leader", func() bool { return n.lostContact(r, term, leader) })
		next = time.Now().Add(n.cfg.Election)
	}
}

// silenceTimeout returns how long a leader must be silent before a follower takes it for lost. It is
// longer than the lease by a part of the time that a message may be late.
func (n *Node) silenceTimeout() time.Duration { return max(n.cfg.Heartbeat, n.cfg.Lease) * 6 / 5 }

// lostContact reports whether this node is a follower in a term, with that leader or none, and has not
// heard it for silenceTimeout. The leader is "" if another candidate has failed meanwhile. Raft also
// records a contact when it grants a vote.
func (n *Node) lostContact(r *raft.Raft, term uint64, leader raft.ServerID) bool {
	_, id := r.LeaderWithID()
	contact := r.LastContact()
	return r.State() == raft.Follower && r.CurrentTerm() == term && id == leader && !contact.IsZero() && time.Since(contact) >= n.silenceTimeout()
}

const (
	// askLostTimeout is how long a follower waits for the others to report when they heard the leader.
	askLostTimeout = 100 * time.Millisecond
	// logStagger is the delay between two candidates. It is longer than electionStagger, because the
	// candidates notice the silence at different times.
	logStagger = 100 * time.Millisecond
)

// othersLost asks the other voters except the leader, and reports whether so many of them have not
// heard a leader for its lease that they are a majority together with this node. rank is the number
// of those that must be candidates before this node: those with a longer log, which would not vote
// for it, and with the same log those with a smaller id. Members in other terms do not count: one
// of them may lead.
func (n *Node) othersLost(ctx context.Context, term uint64, leader raft.ServerID) (rank int, lost bool) {
	ctx, cancel := context.WithTimeout(ctx, askLostTimeout)
	defer cancel()
	voters, need := n.voters()
	others := slices.DeleteFunc(voters, func(id raft.ServerID) bool { return id == leader })
	own := n.report()
	pings := n.pingAll(ctx, others)
	for range others {
		var p memberPing
		select {
		case p = <-pings:
		case <-ctx.Done():
			return rank, need <= 0
		}
		contact := time.Duration(p.res.GetLastContactNanos())
		if p.res == nil || p.res.GetTerm() != term || contact >= 0 && contact < max(n.cfg.Heartbeat, n.cfg.Lease) {
			continue
		}
		need--
		if cmp.Or(
			cmp.Compare(p.res.GetLastTerm(), own.GetLastTerm()),
			cmp.Compare(p.res.GetLastIndex(), own.GetLastIndex()),
			cmp.Compare(n.serverID(), p.id),
		) > 0 {
			rank++
		}
	}
	return rank, need <= 0
}
