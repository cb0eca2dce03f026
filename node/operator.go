package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs/peer"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// clusterAPI is the API for operators. It forwards calls that need the leader to the leader, over
// the peer port, in one hop.
type clusterAPI struct {
	imagebuilderv1.UnimplementedClusterServer
	node *Node
	// peer reports whether the call came from another node. Such a call is not forwarded again.
	peer bool
	// waits reports whether a call waits for a leader although none has responded for long.
	waits bool
}

// servePeers registers the calls between nodes besides those of Raft.
func (n *Node) servePeers(r grpc.ServiceRegistrar) {
	peer.Register(r, n.logs)
	imagebuilderv1.RegisterClusterServer(r, clusterAPI{node: n, peer: true})
}

// leaderClient waits until a leader is known, and returns a client of its API; nil if this node
// leads. An election takes less than a second. So leaderClient does not wait if no leader has
// responded to this node for longer than elections take: an operator then has to act.
func (c clusterAPI) leaderClient(ctx context.Context) (imagebuilderv1.ClusterClient, error) {
	for {
		if c.node.cluster.Leads() {
			return nil, nil
		}
		if err := c.unreached(); err != nil {
			return nil, err
		}
		if conn, err := c.node.cluster.LeaderConn(); err == nil && !c.peer {
			return imagebuilderv1.NewClusterClient(conn), nil
		}
		if !ctxutil.Sleep(ctx, 20*time.Millisecond) {
			return nil, status.Error(codes.Unavailable, "no leader is known: try again, or read the state of this node (--stale)")
		}
	}
}

// unreached returns an error if this node reaches no leader.
func (c clusterAPI) unreached() error {
	if c.waits || c.node.cluster.Reached().Err() == nil {
		return nil
	}
	return status.Error(codes.Unavailable, errOperatorUnreached.Error())
}

// boundedLeaderClient is leaderClient for calls that may take longer than the wait for the leader.
func (c clusterAPI) boundedLeaderClient(ctx context.Context) (imagebuilderv1.ClusterClient, error) {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	return c.leaderClient(ctx)
}

// TransferLeadership lets another node lead, and waits until it does.
func (c clusterAPI) TransferLeadership(ctx context.Context, req *imagebuilderv1.TransferLeadershipRequest) (*imagebuilderv1.TransferLeadershipResponse, error) {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	client, err := c.leaderClient(ctx)
	if err != nil {
		return nil, err
	}
	if client != nil {
		return client.TransferLeadership(ctx, req)
	}
	if err := c.node.cluster.TransferLeadership(ctx, req.GetTo()); err != nil {
		return nil, operatorError(fmt.Errorf("leadership was not transferred: %w", err))
	}
	for c.node.cluster.Leads() || c.node.cluster.Status().LeaderName == "" || c.node.cluster.Status().LeaderName == c.node.cfg.Name {
		if !ctxutil.Sleep(ctx, 5*time.Millisecond) {
			return nil, status.Error(codes.Unavailable, "this node no longer leads, and no other leader is known yet")
		}
	}
	return &imagebuilderv1.TransferLeadershipResponse{Leader: c.node.cluster.Status().LeaderName}, nil
}

// RemoveNode removes a node from the cluster.
func (c clusterAPI) RemoveNode(ctx context.Context, req *imagebuilderv1.RemoveNodeRequest) (*imagebuilderv1.RemoveNodeResponse, error) {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	client, err := c.leaderClient(ctx)
	if err != nil {
		return nil, err
	}
	if client != nil {
		return client.RemoveNode(ctx, req)
	}
	if err := c.node.cluster.Remove(ctx, req.GetNode()); err != nil {
		if !c.node.cluster.Leads() { // it may have lost leadership during the call
			err = fmt.Errorf("%w (%w)", cluster.ErrNoLeader, err)
		}
		return nil, operatorError(fmt.Errorf("%q was not removed: %w", req.GetNode(), err))
	}
	return &imagebuilderv1.RemoveNodeResponse{}, nil
}

// awaitDrains returns an error if the cluster is at a feature level without drains. A node that has
// just started has applied little of its log, so that its own level says nothing yet.
func (c clusterAPI) awaitDrains(ctx context.Context) error {
	if c.node.level() >= 2 {
		return nil
	}
	index, err := c.node.raft.ReadIndex(ctx)
	if err != nil {
		return err
	}
	if err := c.node.raft.WaitApplied(ctx, index); err != nil {
		return err
	}
	if c.node.level() < 2 {
		return status.Error(codes.FailedPrecondition, "a node runs a version that cannot be drained: upgrade all nodes first")
	}
	return nil
}

// DrainNode drains a node or ends the drain, and returns the number of attempts that run there.
func (c clusterAPI) DrainNode(ctx context.Context, req *imagebuilderv1.DrainNodeRequest) (*imagebuilderv1.DrainNodeResponse, error) {
	if err := c.unreached(); err != nil {
		return nil, err
	}
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	if err := c.awaitDrains(ctx); err != nil {
		return nil, err
	}
	_, _, err := builds.Propose(ctx, c.node.raft, &buildsv1.DrainNode{Name: req.GetNode(), Drained: !req.GetUndrain()})
	if errors.Is(err, builds.ErrNotFound) {
		return nil, status.Errorf(codes.NotFound, "there is no node %q", req.GetNode())
	}
	if err != nil {
		return nil, err
	}
	res := &imagebuilderv1.DrainNodeResponse{}
	c.node.store.View().Live(func(r *buildsv1.Record) bool {
		if builds.LastAttempt(r.Build).GetOwner() == req.GetNode() {
			res.Running++
		}
		return true
	})
	return res, nil
}

// Reseal encrypts the secrets of all active builds with the present sealing key.
func (c clusterAPI) Reseal(ctx context.Context, req *imagebuilderv1.ResealRequest) (*imagebuilderv1.ResealResponse, error) {
	client, err := c.boundedLeaderClient(ctx)
	if err != nil {
		return nil, err
	}
	if client != nil {
		return client.Reseal(ctx, req)
	}
	n, id, err := c.node.reseal(ctx)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, fmt.Sprintf("resealed %d secrets, but not all: %v", n, err))
	}
	return &imagebuilderv1.ResealResponse{Resealed: uint32(n), KeyId: id}, nil
}
