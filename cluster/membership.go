package cluster

import (
	"context"
	"errors"
	"slices"

	"github.com/hashicorp/raft"
)

// errMembersChanged means that another change of the membership came first. Nothing was changed.
var errMembersChanged = errors.New("the members have changed meanwhile: ask again")

// changeMembers makes one change of Raft's configuration. This node makes such changes one after the
// other, so that decide sees the servers that the change applies to. Raft's own guard is not usable:
// the configuration that it returns has no index (hashicorp/raft 1.8, Raft.GetConfiguration). A
// leader that other members have deposed cannot append the change. While the log cannot be written,
// changeMembers returns the reason, since a leader that fails to append a change steps down.
func (n *Node) changeMembers(ctx context.Context, decide func(r *raft.Raft, servers []raft.Server) (raft.Future, error)) error {
	return n.await(ctx, func() raft.Future {
		select {
		case n.membership <- struct{}{}:
		case <-ctx.Done():
			return failedFuture{ctx.Err()}
		}
		defer func() { <-n.membership }()
		if err := n.diskProblem(); err != nil {
			return failedFuture{err}
		}
		r := n.raft.Load()
		f, err := decide(r, r.GetConfiguration().Configuration().Servers)
		if err != nil {
			return failedFuture{err}
		}
		return failedFuture{f.Error()}
	})
}

// changeMembersIn is changeMembers for a decision of a term. It returns ErrNoLeader if the term of
// Raft is another one when the change is due.
func (n *Node) changeMembersIn(ctx context.Context, term uint64, decide func(r *raft.Raft, servers []raft.Server) (raft.Future, error)) error {
	return n.changeMembers(ctx, func(r *raft.Raft, servers []raft.Server) (raft.Future, error) {
		if r.CurrentTerm() != term {
			return nil, ErrNoLeader
		}
		return decide(r, servers)
	})
}

// unchanged returns errMembersChanged unless s is still a server with the same address and vote.
func unchanged(servers []raft.Server, s raft.Server) error {
	if !slices.Contains(servers, s) {
		return errMembersChanged
	}
	return nil
}
