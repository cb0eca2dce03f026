package cluster

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/faults"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Term is a period in which this node leads. The leader's work proposes through it, so that a
// deposed leader proposes nothing.
type Term struct {
	node   *Node
	number uint64
	quiet  atomic.Bool // see Node.silent
	hashes atomic.Pointer[hashVerdict]
}

// Number returns the number of Raft's term.
func (t *Term) Number() uint64 { return t.number }

// Now returns the time that a command of this term would be stamped with. It never goes back within
// a term, and it is never before the time of the state at the start of the term.
func (t *Term) Now() time.Time { return time.Unix(0, t.node.clock.stamp()) }

// Propose commits a command as the leader of this term. It returns ErrNoLeader if the term is over.
// It does not change cmd.
func (t *Term) Propose(ctx context.Context, cmd *clusterv1.Command) (Applied, error) {
	n := t.node
	if faults.Mutant("deposed-leader-schedules") {
		return n.Propose(ctx, cmd)
	}
	// Raft may lead a later term already, before leaderLoop has ended this one.
	if !n.leadsIn(t) || n.raft.Load().CurrentTerm() != t.number {
		return Applied{}, ErrNoLeader
	}
	return n.prepareAndCommit(ctx, t.number, n.originated(cmd))
}

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
	term := &Term{node: n, number: n.raft.Load().CurrentTerm()}
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
		err := n.await(ctx, func() raft.Future { return n.raft.Load().Barrier(0) })
		if err == nil {
			err = n.hearClocks(ctx)
		}
		if err == nil {
			n.clock.begin(n.cfg.StateMachine.LastTime(), n.judgeClocks())
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
