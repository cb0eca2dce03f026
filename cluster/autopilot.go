package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	autopilot "github.com/hashicorp/raft-autopilot"

	"github.com/image-builder-ha/image-builder/cluster/serverid"
)

// autopilot promotes stable nodes to voters, up to Config.Voters, and removes members that have
// been silent for Config.PruneAfter. It runs while this node leads and returns when ctx ends.
func (n *Node) autopilot(ctx context.Context, term *Term) error {
	if n.alone() {
		return nil
	}
	var removals sync.WaitGroup
	defer removals.Wait()
	a := autopilot.New(autopilotRaft{n.raft.Load(), n, ctx, term.number}, autopilotApp{n, ctx, term.number, &removals}, autopilot.WithPromoter(promoter{n}), autopilot.WithLogger(n.logger()),
		autopilot.WithUpdateInterval(n.cfg.PingInterval), autopilot.WithReconcileInterval(4*n.cfg.PingInterval))
	a.Start(ctx)
	<-ctx.Done()
	<-a.Stop()
	return nil
}

// autopilotRaft is the Raft that autopilot changes. Its futures stop waiting when the term ends:
// Raft may never complete a request that is queued while it shuts down.
type autopilotRaft struct {
	*raft.Raft
	n    *Node
	ctx  context.Context
	term uint64
}

// AddVoter promotes a member to a voter and fails if id is not a member. Raft itself would add an
// unknown server: a node that an operator removes after autopilot decided to promote it would come
// back, dead and with a vote.
func (r autopilotRaft) AddVoter(id raft.ServerID, address raft.ServerAddress, _ uint64, timeout time.Duration) raft.IndexFuture {
	return &autopilotFuture{r: r, start: func() raft.IndexFuture {
		now := r.Raft.GetConfiguration()
		if err := now.Error(); err != nil {
			return failedFuture{err}
		}
		if !slices.ContainsFunc(now.Configuration().Servers, func(s raft.Server) bool { return s.ID == id }) {
			return failedFuture{fmt.Errorf("%s is no longer a member", id)}
		}
		return r.Raft.AddVoter(id, address, 0, timeout)
	}}
}

func (r autopilotRaft) AddNonvoter(id raft.ServerID, address raft.ServerAddress, prev uint64, timeout time.Duration) raft.IndexFuture {
	return &autopilotFuture{r: r, start: func() raft.IndexFuture { return r.Raft.AddNonvoter(id, address, prev, timeout) }}
}

func (r autopilotRaft) DemoteVoter(id raft.ServerID, prev uint64, timeout time.Duration) raft.IndexFuture {
	return &autopilotFuture{r: r, start: func() raft.IndexFuture { return r.Raft.DemoteVoter(id, prev, timeout) }}
}

func (r autopilotRaft) RemoveServer(id raft.ServerID, prev uint64, timeout time.Duration) raft.IndexFuture {
	return &autopilotFuture{r: r, start: func() raft.IndexFuture { return r.Raft.RemoveServer(id, prev, timeout) }}
}

// autopilotFuture makes its request when Error is called.
type autopilotFuture struct {
	r     autopilotRaft
	start func() raft.IndexFuture
	index atomic.Uint64
}

// Error makes the request and waits for its result or for the end of the term.
func (f *autopilotFuture) Error() error {
	return f.r.n.changeMembersIn(f.r.ctx, f.r.term, func(*raft.Raft, []raft.Server) (raft.Future, error) {
		future := f.start()
		if future.Error() == nil {
			f.index.Store(future.Index())
		}
		return future, nil
	})
}

// Index returns the log index of the change. It is valid once Error has returned nil.
func (f *autopilotFuture) Index() uint64 { return f.index.Load() }

// autopilotApp supplies autopilot with its configuration and the state of the members.
type autopilotApp struct {
	n        *Node
	ctx      context.Context
	term     uint64
	removals *sync.WaitGroup // the removals that RemoveFailedServer has started
}

var _ autopilot.ApplicationIntegration = autopilotApp{}

// AutopilotConfig returns the rules that autopilot applies.
func (p autopilotApp) AutopilotConfig() *autopilot.Config {
	return &autopilot.Config{
		CleanupDeadServers: p.n.cfg.PruneAfter > 0,
		// A member is healthy if the leader hears from it, whether or not it hears the leader.
		LastContactThreshold:    10 * p.n.cfg.PingInterval,
		MaxTrailingLogs:         1000,
		MinQuorum:               3,
		ServerStabilizationTime: p.n.cfg.StableFor,
	}
}

// NotifyState does nothing: no part of the node uses autopilot's own view of the state.
func (p autopilotApp) NotifyState(*autopilot.State) {}

// FetchServerStats returns the most recent ping responses of the members.
func (p autopilotApp) FetchServerStats(_ context.Context, servers map[raft.ServerID]*autopilot.Server) map[raft.ServerID]*autopilot.ServerStats {
	out := map[raft.ServerID]*autopilot.ServerStats{}
	for id := range servers {
		if id == p.n.serverID() {
			r := p.n.raft.Load()
			out[id] = &autopilot.ServerStats{LastTerm: p.n.lastTerm(r), LastIndex: r.LastIndex()}
			continue
		}
		if s := p.n.peers.get(id); p.n.peers.recent(s) {
			out[id] = &autopilot.ServerStats{
				LastContact: time.Duration(s.ping.GetLastContactNanos()),
				LastTerm:    s.ping.GetLastTerm(), LastIndex: s.ping.GetLastIndex(),
			}
		}
	}
	return out
}

// KnownServers returns all members. Autopilot removes servers that are not in the result, so a
// member that does not respond stays in it, and counts as alive until it has been silent for
// Config.PruneAfter.
func (p autopilotApp) KnownServers() map[raft.ServerID]*autopilot.Server {
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

// removalTimeout bounds the removal of a silent member.
const removalTimeout = 10 * time.Second

// RemoveFailedServer removes a member that has been silent for Config.PruneAfter. It does not wait.
func (p autopilotApp) RemoveFailedServer(s *autopilot.Server) {
	p.removals.Go(func() {
		ctx, cancel := context.WithTimeout(p.ctx, removalTimeout)
		defer cancel()
		if err := p.n.removeSilent(ctx, p.term, s.ID); err != nil && p.ctx.Err() == nil {
			p.n.cfg.Logger.Warn("cannot remove a silent member", "node", p.n.cfg.Name, "member", s.ID, "err", err)
		}
	})
}

// removeSilent removes a member in a term, unless it has responded within Config.PruneAfter. The
// removal may have waited for other changes of the membership, so the silence is measured again.
func (n *Node) removeSilent(ctx context.Context, term uint64, id raft.ServerID) error {
	return n.changeMembersIn(ctx, term, func(r *raft.Raft, servers []raft.Server) (raft.Future, error) {
		if !slices.ContainsFunc(servers, func(s raft.Server) bool { return s.ID == id }) {
			return failedFuture{nil}, nil // it was removed meanwhile
		}
		silent := n.Peer(serverid.Name(id), serverid.Store(id)).Silent
		if silent <= n.cfg.PruneAfter {
			return nil, errRespondsAgain
		}
		n.cfg.Logger.Warn("removing a member that has been silent for too long", "node", n.cfg.Name, "member", id, "silent", silent.Round(time.Second), "after", n.cfg.PruneAfter)
		return r.RemoveServer(id, 0, 0), nil
	})
}

// errRespondsAgain means that a member is not removed.
var errRespondsAgain = errors.New("the member responds again")

// promoter keeps the number of voters at Config.Voters.
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

// CalculatePromotionsAndDemotions returns at most one change: it promotes the stable node whose
// zone has the fewest voters, demotes a voter that does not respond if a healthy node can replace
// it, or demotes a surplus voter.
func (p promoter) CalculatePromotionsAndDemotions(c *autopilot.Config, s *autopilot.State) autopilot.RaftChanges {
	var voters, ready []*autopilot.ServerState
	zones := map[any]int{}
	unhealthy := 0
	for _, srv := range s.Servers {
		switch {
		case srv.HasVotingRights():
			voters = append(voters, srv)
			if srv.Health.Healthy {
				zones[srv.Server.Ext]++
			} else if time.Since(srv.Health.StableSince) > 3*p.n.cfg.StableFor {
				unhealthy++
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
	case len(voters) == want && unhealthy > 0 && len(ready) > 0:
		// Autopilot promotes the healthy node in its next round.
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
