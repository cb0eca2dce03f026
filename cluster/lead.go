package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/faults"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Term is the time in which this node leads. Work of the leader commits
// through it: nothing of it is proposed by a node that was deposed.
type Term struct {
	node   *Node
	number uint64
}

// Number is Raft's term.
func (t *Term) Number() uint64 { return t.number }

// Now is the time with which a command of the term would be stamped. Unlike the
// clock of the machine it is not set within a term, nor goes back between terms.
func (t *Term) Now() time.Time { return time.Unix(0, t.node.clock.stamp()) }

// Propose commits a command as the leader of this term, or answers
// ErrNoLeader.
func (t *Term) Propose(ctx context.Context, cmd *clusterv1.Command) (Applied, error) {
	n := t.node
	if faults.Mutant("deposed-leader-schedules") {
		return n.Propose(ctx, cmd)
	}
	n.mu.Lock()
	leads := n.leads && n.term == t.number
	n.mu.Unlock()
	if !leads {
		return Applied{}, ErrNoLeader
	}
	cmd.Origin = string(n.serverID())
	return n.proposeHere(ctx, cmd)
}

// watchLeader wakes those who wait whenever another leader is known.
func (n *Node) watchLeader(ctx context.Context, observed <-chan raft.Observation) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-observed:
			n.mu.Lock()
			close(n.changed)
			n.changed = make(chan struct{})
			n.mu.Unlock()
		}
	}
}

// leaderLoop runs the leader's work once per term, never two terms at once. A
// run ends, and is waited for, before the next begins.
func (n *Node) leaderLoop(ctx context.Context) {
	changes := n.raft.Load().LeaderCh() // the latest wins, Raft never waits for us
	end := func() {}
	defer func() { end() }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
		}
		// Also a second 'true' is another term: its 'false' was overtaken.
		end()
		end = func() {}
		if n.raft.Load().State() == raft.Leader {
			end = n.startTerm(ctx)
		}
	}
}

// startTerm begins a term and answers what ends it and waits for its work.
func (n *Node) startTerm(ctx context.Context) func() {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	// Before anybody judges the members: what was heard in a former term says nothing.
	asked := n.raft.Load().CurrentTerm()
	n.peers.begin(asked)
	wg.Go(func() { n.watchMembers(ctx, asked) })
	wg.Go(func() {
		if err := n.establish(ctx); err != nil {
			if ctx.Err() == nil {
				n.cfg.Logger.Warn("cannot begin to lead", "node", n.cfg.Name, "err", err)
			}
			return
		}
		term := &Term{node: n, number: n.raft.Load().CurrentTerm()}
		n.cfg.Logger.Info("leads", "node", n.cfg.Name, "term", term.number)
		for _, work := range append([]func(context.Context, *Term) error{n.watchSelf, n.autopilot}, n.work...) {
			wg.Go(func() {
				if err := work(ctx, term); err != nil && ctx.Err() == nil {
					n.cfg.Logger.Error("leader's work ended", "node", n.cfg.Name, "err", err)
				}
			})
		}
	})
	return func() {
		n.setLeads(false, 0)
		cancel()
		wg.Wait()
		n.peers.begin(0)
	}
}

// establish makes sure that everything of former terms is applied, and
// applies a command of this one, before anybody may rely on the term.
func (n *Node) establish(ctx context.Context) error {
	for {
		term := n.raft.Load().CurrentTerm()
		err := n.await(ctx, func() raft.Future { return n.raft.Load().Barrier(0) })
		if err == nil {
			err = n.hearClocks(ctx)
		}
		if err == nil {
			n.clock.begin(n.cfg.StateMachine.LastTime())
			err = n.updateAddress(ctx)
		}
		if err == nil {
			_, err = n.commit(ctx, &clusterv1.Command{Ignorable: true, Origin: string(n.serverID())})
		}
		switch {
		case err == nil:
			n.setLeads(true, term)
			return nil
		case ctx.Err() != nil, errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown):
			return err
		}
		// The disk may be full: the term goes on, and so do we.
		n.cfg.Logger.Warn("cannot write the first command of the term, will try again", "node", n.cfg.Name, "err", err)
		t := time.NewTimer(time.Second)
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
	}
}

// updateAddress corrects this node's address in the group, if it has moved.
func (n *Node) updateAddress(ctx context.Context) error {
	r := n.raft.Load()
	address := raft.ServerAddress(n.cfg.Network.Address())
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.ID == n.serverID() && s.Address != address {
			return n.await(ctx, func() raft.Future { return r.AddVoter(s.ID, address, 0, 0) })
		}
	}
	return nil
}

func (n *Node) setLeads(leads bool, term uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leads, n.term = leads, term
	close(n.changed)
	n.changed = make(chan struct{})
}
