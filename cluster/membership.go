package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/serverid"
)

// errMembersChanged means that another change of the membership came first. Nothing was changed.
var errMembersChanged = errors.New("the members have changed meanwhile: ask again")

// changeMembers makes one change of Raft's configuration. This node makes such changes one after
// the other, so that decide sees the servers that the change applies to. Raft's own guard is not
// usable: the configuration that it returns has no index (hashicorp/raft 1.8,
// Raft.GetConfiguration). A leader that other members have deposed cannot append the change. While
// the log cannot be written, changeMembers returns the reason, because a leader that fails to
// append a change steps down.
func (n *Node) changeMembers(ctx context.Context, decide func(r *raft.Raft, servers []raft.Server) (raft.Future, error)) error {
	return n.raftCalls.await(ctx, func() raft.Future {
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

// Remove removes a member from the cluster, by node name or server id. On a node that does not lead
// it returns ErrNoLeader.
func (n *Node) Remove(ctx context.Context, member string) error {
	r := n.raft.Load()
	if !n.leading() {
		return ErrNoLeader
	}
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if string(s.ID) != member && serverid.Name(s.ID) != member {
			continue
		}
		if s.ID == n.serverID() {
			return fmt.Errorf("node %q leads: transfer leadership first", member)
		}
		return n.changeMembers(ctx, func(r *raft.Raft, _ []raft.Server) (raft.Future, error) { return r.RemoveServer(s.ID, 0, 0), nil })
	}
	return fmt.Errorf("no member is named %q", member)
}

// IsMember reports whether the server with that name and store id is in the latest configuration.
func (n *Node) IsMember(name, storeID string) bool {
	r, id := n.raft.Load(), raft.ServerID(name+"/"+storeID)
	return r != nil && slices.ContainsFunc(r.GetConfiguration().Configuration().Servers, func(s raft.Server) bool { return s.ID == id })
}

// rank returns the position of this node among the voters without the leader. votes is false if
// this node is no voter.
func (n *Node) rank(leader raft.ServerID) (rank int, votes bool) {
	var voters []string
	for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter && s.ID != leader {
			voters = append(voters, string(s.ID))
		}
	}
	slices.SortFunc(voters, strings.Compare)
	rank = slices.Index(voters, string(n.serverID()))
	return rank, rank >= 0
}
