package cluster

import (
	"context"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// follows reports whether this node is in a term, follows the leader of it, and has neither begun
// nor voted in a later term. The leader follows itself.
func (n *Node) follows(term uint64, leader raft.ServerID) bool {
	r := n.raft.Load()
	if r == nil {
		return false
	}
	_, known := r.LeaderWithID()
	return known == leader && r.CurrentTerm() == term && n.terms.greatest.Load() <= term
}

// askAllAfter is how long a round waits for the voters of the previous round before it asks all.
const askAllAfter = 5 * time.Millisecond

// confirmLeadership asks the voters of the latest configuration whether they follow this node in
// term. It returns nil once a majority, this node included, has confirmed this. Each confirmation
// is made after the call of confirmLeadership has begun. So no node had won an election of a later
// term before the call began. It returns ErrNoLeader if a majority cannot confirm it, and after
// Config.Election at the latest.
//
// To halve the calls, it first asks as many voters as it needs, beginning with those that were the
// first to confirm the previous round. It asks another one for each that does not confirm it, and
// all of them after askAllAfter.
func (n *Node) confirmLeadership(ctx context.Context, term uint64) error {
	if !n.raftCalls.begin() {
		return ErrClosed
	}
	defer n.raftCalls.end()
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Election)
	defer cancel() // ends the calls to the voters whose responses are not needed
	rest, need := n.voters()
	left, confirmations := len(rest), make(chan confirmation, len(rest))
	ask := func(count int) {
		for ; count > 0 && len(rest) > 0 && n.raftCalls.begin(); count-- {
			id := rest[0]
			rest = rest[1:]
			go func() {
				defer n.raftCalls.end()
				confirmations <- confirmation{id, n.confirmedBy(ctx, id, term)}
			}()
		}
	}
	ask(need)
	all := time.NewTimer(askAllAfter)
	defer all.Stop()
	var confirmed []raft.ServerID
	for len(confirmed) < need {
		if len(confirmed)+left < need {
			return ErrNoLeader
		}
		n.mu.Lock()
		leads, changed := n.leads && n.term == term, n.changed
		n.mu.Unlock()
		if !leads {
			return ErrNoLeader
		}
		select {
		case c := <-confirmations:
			left--
			if c.confirmed {
				confirmed = append(confirmed, c.from)
			} else {
				ask(1)
			}
		case <-all.C:
			ask(len(rest))
		case <-changed:
		case <-ctx.Done():
			return ErrNoLeader
		case <-n.closed:
			return ErrClosed
		}
	}
	n.confirmers.Store(&confirmed)
	// This node counts for itself, and only now: it may have voted for another meanwhile.
	if n.raft.Load().State() != raft.Leader || !n.follows(term, n.serverID()) {
		return ErrNoLeader
	}
	return nil
}

// confirmation is the response of a voter to Confirm.
type confirmation struct {
	from      raft.ServerID
	confirmed bool
}

// voters returns the other voters of the latest configuration, and how many of them make a majority
// together with this node. Those that confirmed the previous round are the first.
func (n *Node) voters() (others []raft.ServerID, need int) {
	all, self := 0, 0
	for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
		switch {
		case s.Suffrage != raft.Voter:
			continue
		case s.ID == n.serverID():
			self = 1
		default:
			others = append(others, s.ID)
		}
		all++
	}
	if last := n.confirmers.Load(); last != nil {
		rank := func(id raft.ServerID) int {
			if slices.Contains(*last, id) {
				return 0
			}
			return 1
		}
		slices.SortStableFunc(others, func(a, b raft.ServerID) int { return rank(a) - rank(b) })
	}
	return others, all/2 + 1 - self
}

// confirmedBy asks one voter. Every error is a no: UNIMPLEMENTED of an older version, too.
func (n *Node) confirmedBy(ctx context.Context, id raft.ServerID, term uint64) bool {
	if n.mayCall(id) != nil {
		return false
	}
	conn, err := n.cfg.Network.Conn(id, n.addressOf(id))
	if err != nil {
		return false
	}
	res, err := clusterv1.NewPeerClient(conn).Confirm(ctx, &clusterv1.ConfirmRequest{Term: term, Leader: string(n.serverID())})
	if err != nil && ctx.Err() == nil { // not because the round has ended
		n.cfg.Logger.Debug("a voter does not confirm the leader", "node", n.cfg.Name, "voter", id, "err", status.Convert(err).Message())
	}
	return err == nil && res.GetConfirmed()
}
