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
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// clusterAPI answers operators. Calls that only the leader can answer go
// there, over the peer port, in one hop.
type clusterAPI struct {
	imagebuilderv1.UnimplementedClusterServer
	node *Node
	// peer: the call came from another node, and goes no further.
	peer bool
}

// servePeers adds what nodes ask of each other beside Raft.
func (n *Node) servePeers(r grpc.ServiceRegistrar) {
	n.logs.Register(r)
	imagebuilderv1.RegisterClusterServer(r, clusterAPI{node: n, peer: true})
}

// leader answers the API of the leader: nil if it is this node.
func (c clusterAPI) leaderClient(ctx context.Context) (imagebuilderv1.ClusterClient, error) {
	for {
		if c.node.cluster.Leads() {
			return nil, nil
		}
		if conn, err := c.node.cluster.LeaderConn(); err == nil && !c.peer {
			return imagebuilderv1.NewClusterClient(conn), nil
		}
		if !ctxutil.Sleep(ctx, 20*time.Millisecond) {
			return nil, status.Error(codes.Unavailable, "no leader is known: ask again, or ask for what this node knows (--stale)")
		}
	}
}

// leaderSoon is leader for calls that may take long once it is found.
func (c clusterAPI) boundedLeaderClient(ctx context.Context) (imagebuilderv1.ClusterClient, error) {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	return c.leaderClient(ctx)
}

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
		return nil, operatorError(fmt.Errorf("leadership stays where it is: %w", err))
	}
	for c.node.cluster.Leads() || c.node.cluster.Status().LeaderName == "" || c.node.cluster.Status().LeaderName == c.node.cfg.Name {
		if !ctxutil.Sleep(ctx, 5*time.Millisecond) {
			return nil, status.Error(codes.Unavailable, "leadership was given up, and no other leader is known yet")
		}
	}
	return &imagebuilderv1.TransferLeadershipResponse{Leader: c.node.cluster.Status().LeaderName}, nil
}

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
		if !c.node.cluster.Leads() { // it may have lost that in between
			err = fmt.Errorf("%w (%w)", cluster.ErrNoLeader, err)
		}
		return nil, operatorError(fmt.Errorf("%q was not removed: %w", req.GetNode(), err))
	}
	return &imagebuilderv1.RemoveNodeResponse{}, nil
}

func (c clusterAPI) DrainNode(ctx context.Context, req *imagebuilderv1.DrainNodeRequest) (*imagebuilderv1.DrainNodeResponse, error) {
	if c.node.level() < 2 {
		return nil, status.Error(codes.FailedPrecondition, "not all nodes run a version that knows drained nodes")
	}
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
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
		return nil, status.Error(codes.FailedPrecondition, fmt.Sprintf("not all secrets are resealed (%d are): %v", n, err))
	}
	return &imagebuilderv1.ResealResponse{Resealed: uint32(n), KeyId: id}, nil
}
