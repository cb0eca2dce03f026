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
	ran := punctual{since: next, last: next}
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if ran.check(time.Now()) < n.silenceTimeout() {
			continue
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
		delay, lost := n.othersLost(ctx, term, leader)
		ran.last = time.Now() // after the time for the responses
		if !lost {
			continue
		}
		n.campaign(ctx, leader, delay, "a majority does not hear the leader", func() bool { return n.lostContact(r, term, leader) })
		next = time.Now().Add(n.cfg.Election)
		ran.last = time.Now()
	}
}

// punctual records how long this process has run without a late check. If it did not run, messages
// of the leader may wait to be read, and its silence proves nothing. On a busy machine, elections
// that skip the timers of Raft would follow each other.
type punctual struct {
	since time.Time // last check that was late
	last  time.Time
}

// check records a check, and returns the time since the last late check.
func (p *punctual) check(now time.Time) time.Duration {
	if now.Sub(p.last) > reachInterval+lateLimit {
		p.since = now
	}
	p.last = now
	return now.Sub(p.since)
}

// silenceTimeout returns how long a leader must be silent before a follower considers it lost. It
// is longer than the lease by a part of the time that a message may be late.
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
	// logStagger is the delay between two candidates, which is longer than an election.
	logStagger = 100 * time.Millisecond
)

// othersLost asks the other voters except the leader, and reports whether so many of them have not
// heard a leader for its lease that they are a majority together with this node. It returns how long
// this node must wait before it stands for election, so that two nodes do not take votes from each
// other. Members in other terms do not count: one of them may lead.
func (n *Node) othersLost(ctx context.Context, term uint64, leader raft.ServerID) (delay time.Duration, lost bool) {
	ctx, cancel := context.WithTimeout(ctx, askLostTimeout)
	defer cancel()
	voters, need := n.voters()
	others := slices.DeleteFunc(voters, func(id raft.ServerID) bool { return id == leader })
	report := n.report()
	own := candidate{id: n.serverID(), lastTerm: report.GetLastTerm(), lastIndex: report.GetLastIndex()}
	var before []candidate
	pings := n.pingAll(ctx, others)
	for range others {
		var p memberPing
		select {
		case p = <-pings:
		case <-ctx.Done():
			return turn(before, n.silenceTimeout()), need <= 0
		}
		if p.res == nil || !hearsNone(p, term, leader, max(n.cfg.Heartbeat, n.cfg.Lease)) {
			continue
		}
		need--
		if c := (candidate{p.id, p.res.GetLastTerm(), p.res.GetLastIndex(), time.Duration(p.res.GetLastContactNanos())}); c.before(own) {
			before = append(before, c)
		}
	}
	return turn(before, n.silenceTimeout()), need <= 0
}

// hearsNone reports whether a member that responded is in the given term and has not heard a leader
// for its lease. A node that has just returned does not know the leader of the term; leader is ""
// then. The leader itself has heard nobody: a member that reports itself as the leader does not
// count. Neither does a member that reports a leader and no contact: it is handling the first
// message of that leader. Versions up to 0.3.0 do not report whether they lead.
func hearsNone(p memberPing, term uint64, leader raft.ServerID, lease time.Duration) bool {
	contact := time.Duration(p.res.GetLastContactNanos())
	switch {
	case p.res.GetTerm() != term || contact >= 0 && contact < lease:
		return false
	case p.res.Leader == nil:
		return leader != ""
	case contact < 0:
		return p.res.GetLeader() == ""
	}
	return p.res.GetLeader() != string(p.id)
}

// candidate is a node that may stand for election.
type candidate struct {
	id                  raft.ServerID
	lastTerm, lastIndex uint64        // last entry of its log
	contact             time.Duration // time since it heard the leader; negative: never
}

// before reports whether c stands for election before d. It does so if its log is longer, because
// then it would not vote for d, or if the logs are the same and its id is smaller.
func (c candidate) before(d candidate) bool {
	return cmp.Or(
		cmp.Compare(c.lastTerm, d.lastTerm), cmp.Compare(c.lastIndex, d.lastIndex), cmp.Compare(d.id, c.id),
	) > 0
}

// turn returns how long a node waits before it stands for election, if the given ones come before
// it. Each of them begins at its first check after silence has passed since its last contact with
// the leader.
func turn(before []candidate, silence time.Duration) (delay time.Duration) {
	if len(before) == 0 {
		return 0
	}
	for _, c := range before {
		if c.contact >= 0 {
			delay = max(delay, silence-c.contact)
		}
	}
	return delay + reachInterval + time.Duration(len(before))*logStagger
}
