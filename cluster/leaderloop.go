package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// watchLeader wakes the waiters whenever another leader becomes known.
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

// leaderLoop runs the leader's work once per term. The work of a term has ended before the work of
// the next term begins.
func (n *Node) leaderLoop(ctx context.Context) {
	changes := n.raft.Load().LeaderCh() // holds the latest change only; Raft never blocks on it
	end := func() {}
	defer func() { end() }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-changes:
		}
		// A second true without a false in between is a new term too: the false was overwritten.
		end()
		end = func() {}
		if n.raft.Load().State() == raft.Leader {
			end = n.startTerm(ctx)
		}
	}
}

// startTerm starts the work of a term. The returned function ends the term and waits for its work.
func (n *Node) startTerm(ctx context.Context) func() {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	term := &Term{number: n.raft.Load().CurrentTerm(), clock: n.clock, propose: n.proposeIn}
	n.beginTerm(term)
	wg.Go(func() { n.watchMembers(ctx, term.number) })
	wg.Go(func() {
		if err := n.establish(ctx, term); err != nil {
			if ctx.Err() == nil {
				n.cfg.Logger.Warn("cannot start to lead", "node", n.cfg.Name, "err", err)
			}
			return
		}
		n.cfg.Logger.Info("leads", "node", n.cfg.Name, "term", term.number)
		for _, work := range append([]func(context.Context, *Term) error{n.watchSelf, n.watchHashes, n.autopilot}, n.work...) {
			wg.Go(func() {
				if err := work(ctx, term); err != nil && ctx.Err() == nil {
					n.cfg.Logger.Error("leader's work ended", "node", n.cfg.Name, "err", err)
				}
			})
		}
	})
	return func() {
		n.endTerm()
		cancel()
		wg.Wait()
		n.peers.begin(0)
	}
}

// establish waits until all commands of former terms are applied and a command of this term is
// committed. Only then does the node count as the leader. It retries while the term lasts.
func (n *Node) establish(ctx context.Context, term *Term) error {
	for {
		err := n.raftCalls.await(ctx, func() raft.Future { return n.raft.Load().Barrier(0) })
		if err == nil {
			err = n.hearClocks(ctx)
		}
		if err == nil {
			n.clock.Begin(n.cfg.StateMachine.LastTime(), n.judgeClocks())
			err = n.updateAddress(ctx, term)
		}
		if err == nil {
			_, err = n.commit(ctx, term.number, &clusterv1.Command{Ignorable: true, Origin: string(n.serverID())})
		}
		switch {
		case n.raft.Load().CurrentTerm() != term.number:
			return raft.ErrLeadershipLost // leaderLoop starts the term that Raft is in
		case err == nil:
			n.setLeads(term)
			return nil
		case ctx.Err() != nil, errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrRaftShutdown):
			return err
		}
		// The disk may be full. That does not end the term, so retry.
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

// updateAddress corrects this node's address in Raft's configuration if it has changed.
func (n *Node) updateAddress(ctx context.Context, term *Term) error {
	r := n.raft.Load()
	address := raft.ServerAddress(n.cfg.Network.Address())
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if s.ID == n.serverID() && s.Address != address {
			return n.changeMembersIn(ctx, term.number, func(r *raft.Raft, now []raft.Server) (raft.Future, error) {
				if err := unchanged(now, s); err != nil {
					return nil, err
				}
				return r.AddVoter(s.ID, address, 0, 0), nil
			})
		}
	}
	return nil
}
