package cluster

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"
)

// autopilot makes stable nodes voters, up to the wanted number, and prunes
// members that are silent for long, while this node leads.
func (n *Node) autopilot(ctx context.Context, _ *Term) error {
	if n.alone() {
		return nil
	}
	a := autopilot.New(pilotRaft{n.raft.Load(), n, ctx}, pilot{n}, autopilot.WithPromoter(promoter{n}), autopilot.WithLogger(n.logger()),
		autopilot.WithUpdateInterval(n.cfg.PingInterval), autopilot.WithReconcileInterval(4*n.cfg.PingInterval))
	a.Start(ctx)
	<-ctx.Done()
	<-a.Stop()
	return nil
}

// pilotRaft lets autopilot wait for changes as long as the term lasts. Raft may
// leave what it was asked for without an answer when it is shut down.
type pilotRaft struct {
	*raft.Raft
	n   *Node
	ctx context.Context
}

// AddVoter promotes a member. Raft itself would add a server that is none, so
// that a node that an operator removes after autopilot has decided to promote
// it came back, dead and with a vote.
func (r pilotRaft) AddVoter(id raft.ServerID, address raft.ServerAddress, _ uint64, timeout time.Duration) raft.IndexFuture {
	return &pilotFuture{r: r, ask: func() raft.IndexFuture {
		now := r.Raft.GetConfiguration()
		if err := now.Error(); err != nil {
			return refused{err}
		}
		if !slices.ContainsFunc(now.Configuration().Servers, func(s raft.Server) bool { return s.ID == id }) {
			return refused{fmt.Errorf("%s is no longer a member", id)}
		}
		return r.Raft.AddVoter(id, address, now.Index(), timeout)
	}}
}

// refused is the future of what Raft was not asked.
type refused struct{ err error }

func (f refused) Error() error  { return f.err }
func (f refused) Index() uint64 { return 0 }

func (r pilotRaft) AddNonvoter(id raft.ServerID, address raft.ServerAddress, prev uint64, timeout time.Duration) raft.IndexFuture {
	return &pilotFuture{r: r, ask: func() raft.IndexFuture { return r.Raft.AddNonvoter(id, address, prev, timeout) }}
}

func (r pilotRaft) DemoteVoter(id raft.ServerID, prev uint64, timeout time.Duration) raft.IndexFuture {
	return &pilotFuture{r: r, ask: func() raft.IndexFuture { return r.Raft.DemoteVoter(id, prev, timeout) }}
}

func (r pilotRaft) RemoveServer(id raft.ServerID, prev uint64, timeout time.Duration) raft.IndexFuture {
	return &pilotFuture{r: r, ask: func() raft.IndexFuture { return r.Raft.RemoveServer(id, prev, timeout) }}
}

// pilotFuture asks Raft when it is waited for.
type pilotFuture struct {
	r     pilotRaft
	ask   func() raft.IndexFuture
	index atomic.Uint64
}

// Error waits for the answer, or the end of the term.
func (f *pilotFuture) Error() error {
	return f.r.n.await(f.r.ctx, func() raft.Future {
		future := f.ask()
		if future.Error() == nil {
			f.index.Store(future.Index())
		}
		return future
	})
}

// Index is that of the change, once Error has answered nil.
func (f *pilotFuture) Index() uint64 { return f.index.Load() }

// pilot tells autopilot about the members.
type pilot struct{ n *Node }

var _ autopilot.ApplicationIntegration = pilot{}

// AutopilotConfig answers the rules.
func (p pilot) AutopilotConfig() *autopilot.Config {
	return &autopilot.Config{
		CleanupDeadServers: p.n.cfg.PruneAfter > 0,
		// What counts is whether a node answers, not what it hears.
		LastContactThreshold:    10 * p.n.cfg.PingInterval,
		MaxTrailingLogs:         1000,
		MinQuorum:               3,
		ServerStabilizationTime: p.n.cfg.StableFor,
	}
}

// NotifyState has nobody to tell.
func (p pilot) NotifyState(*autopilot.State) {}

// FetchServerStats answers what the members said last.
func (p pilot) FetchServerStats(_ context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	out := map[raft.ServerID]*autopilot.ServerStats{}
	for id := range servers {
		if id == p.n.serverID() {
			r := p.n.raft.Load()
			out[id] = &autopilot.ServerStats{LastTerm: p.n.lastTerm(r), LastIndex: r.LastIndex()}
			continue
		}
		if s := p.n.peers.get(id); s.answer != nil && time.Since(s.answered) < 4*p.n.cfg.PingInterval {
			out[id] = &autopilot.ServerStats{
				LastContact: time.Duration(s.answer.GetLastContactNanos()),
				LastTerm:    s.answer.GetLastTerm(), LastIndex: s.answer.GetLastIndex(),
			}
		}
	}
	return out
}

// KnownServers answers all members. One that does not answer is still known,
// and alive, until it has been silent for long: autopilot drops what is not.
func (p pilot) KnownServers() map[raft.ServerID]*autopilot.Server {
	out := map[raft.ServerID]*autopilot.Server{}
	_, leader := p.n.raft.Load().LeaderWithID()
	for _, m := range p.n.Members() {
		id := raft.ServerID(m.ServerID)
		status := autopilot.NodeAlive
		if p.n.cfg.PruneAfter > 0 && m.Silent > p.n.cfg.PruneAfter {
			status = autopilot.NodeFailed
		}
		out[id] = &autopilot.Server{
			ID: id, Name: m.Name, Address: raft.ServerAddress(m.Address), NodeStatus: status, Version: "1",
			RaftVersion: 3, IsLeader: id == leader, NodeType: autopilot.NodeVoter, Ext: m.Zone,
		}
	}
	return out
}

// RemoveFailedServer removes a member that was silent for long.
func (p pilot) RemoveFailedServer(s *autopilot.Server) {
	p.n.cfg.Logger.Warn("removes a member that is silent for long", "node", p.n.cfg.Name, "member", s.ID, "after", p.n.cfg.PruneAfter)
	p.n.done.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), raftTimeout)
		defer cancel()
		if err := p.n.await(ctx, func() raft.Future { return p.n.raft.Load().RemoveServer(s.ID, 0, 0) }); err != nil {
			p.n.cfg.Logger.Warn("cannot remove a silent member", "node", p.n.cfg.Name, "member", s.ID, "err", err)
		}
	})
}

// promoter keeps the number of voters.
type promoter struct{ n *Node }

var _ autopilot.Promoter = promoter{}

func (promoter) GetServerExt(*autopilot.Config, *autopilot.ServerState) any { return nil }
func (promoter) GetStateExt(*autopilot.Config, *autopilot.State) any        { return nil }
func (promoter) IsPotentialVoter(autopilot.NodeType) bool                   { return true }

func (promoter) GetNodeTypes(_ *autopilot.Config, s *autopilot.State) map[raft.ServerID]autopilot.NodeType {
	types := map[raft.ServerID]autopilot.NodeType{}
	for id := range s.Servers {
		types[id] = autopilot.NodeVoter
	}
	return types
}

func (promoter) FilterFailedServerRemovals(_ *autopilot.Config, _ *autopilot.State, f *autopilot.FailedServers) *autopilot.FailedServers {
	return f
}

// CalculatePromotionsAndDemotions answers one change at a time: promote the
// stable node in the zone with the fewest voters, replace a voter that does
// not answer, or demote one that is too many.
func (p promoter) CalculatePromotionsAndDemotions(c *autopilot.Config, s *autopilot.State) autopilot.RaftChanges {
	var voters, ready []*autopilot.ServerState
	zones := map[any]int{}
	sick := 0
	for _, srv := range s.Servers {
		switch {
		case srv.HasVotingRights():
			voters = append(voters, srv)
			if srv.Health.Healthy {
				zones[srv.Server.Ext]++
			} else if time.Since(srv.Health.StableSince) > 3*p.n.cfg.StableFor {
				sick++
			}
		case srv.Health.IsStable(time.Now(), s.ServerStabilizationTime(c)):
			ready = append(ready, srv)
		}
	}
	byID := func(a, b *autopilot.ServerState) int { return cmp.Compare(a.Server.ID, b.Server.ID) }
	slices.SortFunc(ready, func(a, b *autopilot.ServerState) int {
		return cmp.Or(cmp.Compare(zones[a.Server.Ext], zones[b.Server.Ext]), byID(a, b))
	})
	slices.SortFunc(voters, byID)
	want := p.n.cfg.Voters
	switch {
	case len(voters) < want && len(ready) > 0:
		return autopilot.RaftChanges{Promotions: []raft.ServerID{ready[0].Server.ID}}
	case len(voters) == want && sick > 0 && len(ready) > 0:
		// A healthy node takes the place of a voter that does not answer.
		for _, v := range voters {
			if !v.Health.Healthy && time.Since(v.Health.StableSince) > 3*p.n.cfg.StableFor {
				return autopilot.RaftChanges{Demotions: []raft.ServerID{v.Server.ID}}
			}
		}
	case len(voters) > want:
		for _, v := range slices.Backward(voters) {
			if v.Server.ID != s.Leader {
				return autopilot.RaftChanges{Demotions: []raft.ServerID{v.Server.ID}}
			}
		}
	}
	return autopilot.RaftChanges{}
}

// lastTerm is the term of the last entry of the log.
func (n *Node) lastTerm(r *raft.Raft) uint64 {
	var e raft.Log
	if n.log.GetLog(r.LastIndex(), &e) == nil {
		return e.Term
	}
	term, _ := strconv.ParseUint(r.Stats()["last_log_term"], 10, 64) // of a snapshot; dear, since much else is told
	return term
}
