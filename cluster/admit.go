package cluster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/serverid"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// admit executes Join on the leader. A server with the same name and other data is removed, unless
// it is alive.
func (n *Node) admit(ctx context.Context, from *clusterv1.Identity) error {
	id, address := raft.ServerID(from.GetServerId()), raft.ServerAddress(from.GetAddress())
	name := serverid.Name(id)
	if name == "" || name == string(id) || address == "" {
		return fmt.Errorf("server id %q or address %q is incomplete", id, address)
	}
	r := n.raft.Load()
	member := slices.ContainsFunc(r.GetConfiguration().Configuration().Servers, func(s raft.Server) bool { return s.ID == id })
	check := n.checkNewMember
	if member {
		check = n.checkIdentity
	}
	if err := check(from); err != nil {
		return err
	}
	if err := n.checkFloorOfJoiner(ctx, from); err != nil {
		return err
	}
	n.book.note(from)
	var former []raft.ServerID
	var checked time.Time // when the last of the servers with this name did not respond
	for _, s := range r.GetConfiguration().Configuration().Servers {
		switch {
		case s.ID == id && s.Address == address:
			return nil
		case s.ID == id:
			return n.changeMembers(ctx, func(r *raft.Raft, now []raft.Server) (raft.Future, error) {
				// Raft itself would add a server that was removed meanwhile, and with a vote.
				if err := unchanged(now, s); err != nil {
					return nil, err
				}
				if s.Suffrage == raft.Voter {
					return r.AddVoter(id, address, 0, 0), nil
				}
				return r.AddNonvoter(id, address, 0, 0), nil
			})
		case serverid.Name(s.ID) == name:
			if s.ID == n.serverID() || n.alive(ctx, s.ID) {
				return errNotUnique(name)
			}
			checked = time.Now()
			if s.Address == address {
				// Raft allows each address once, and the joining server has this address now:
				// remove the former server first.
				if err := n.removeFormer(ctx, s.ID, checked); err != nil {
					return err
				}
				continue
			}
			former = append(former, s.ID)
		}
	}
	if err := n.changeMembers(ctx, func(r *raft.Raft, _ []raft.Server) (raft.Future, error) {
		for _, old := range former {
			if n.respondedAfter(old, checked) {
				return nil, errNotUnique(name)
			}
		}
		return r.AddNonvoter(id, address, 0, 0), nil
	}); err != nil {
		return err
	}
	n.cfg.Logger.Info("a node joined", "node", id, "address", address)
	for _, old := range former {
		if err := n.removeFormer(ctx, old, checked); err != nil {
			return err
		}
	}
	return nil
}

// errNotUnique returns the error for a joining node whose name another node has.
func errNotUnique(name string) error {
	return fmt.Errorf("a node named %q with other data is alive: names must be unique", name)
}

// respondedAfter reports whether a member has responded to a ping of this term after t.
func (n *Node) respondedAfter(id raft.ServerID, t time.Time) bool {
	return n.peers.get(id).pingAt.After(t)
}

// removeFormer removes a server whose data is gone, so that no quorum counts it. The removal may
// wait for other changes of the membership. It returns an error if the server responds after
// checked.
func (n *Node) removeFormer(ctx context.Context, id raft.ServerID, checked time.Time) error {
	if err := n.changeMembers(ctx, func(r *raft.Raft, _ []raft.Server) (raft.Future, error) {
		if n.respondedAfter(id, checked) {
			return nil, errNotUnique(serverid.Name(id))
		}
		return r.RemoveServer(id, 0, 0), nil
	}); err != nil {
		return fmt.Errorf("remove the former %s: %w", id, err)
	}
	n.cfg.Logger.Info("removed a server whose data directory was replaced", "node", id)
	return nil
}

// checkFloorOfJoiner is checkFloor for a request, which may have waited: if the identity in it has
// less than the floor, the leader requests the identity again.
func (n *Node) checkFloorOfJoiner(ctx context.Context, from *clusterv1.Identity) error {
	floor := n.floors.get(raft.ServerID(from.GetServerId()))
	err := n.checkFloor(from, floor)
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	res, herr := n.hello(ctx, from.GetAddress())
	if herr != nil || res.GetNode().GetServerId() != from.GetServerId() {
		return err
	}
	return n.checkFloor(res.GetNode(), floor)
}
