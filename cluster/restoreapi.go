package cluster

import (
	"context"
	"errors"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// restoreAPI serves the transfer of snapshots to other nodes.
type restoreAPI struct {
	clusterv1.UnimplementedRestoreServer
	node *Node
}

// PutSnapshot stores a part of a snapshot. It refuses a leader of a former term.
func (a restoreAPI) PutSnapshot(_ context.Context, req *clusterv1.PutSnapshotRequest) (*clusterv1.PutSnapshotResponse, error) {
	r := a.node.raft.Load()
	if r == nil {
		return nil, errStarting
	}
	if term := r.CurrentTerm(); req.GetTerm() < term {
		return nil, status.Errorf(codes.FailedPrecondition, "the restore is of term %d, this node is in term %d", req.GetTerm(), term)
	}
	complete, err := a.node.restores.Put(req.GetSnapshot(), req.GetAttempt(), req.GetTerm(), req.GetOffset(), req.GetPart())
	if err != nil {
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	}
	return &clusterv1.PutSnapshotResponse{Complete: complete}, nil
}

// DropSnapshot removes a snapshot that no command names.
func (a restoreAPI) DropSnapshot(_ context.Context, req *clusterv1.DropSnapshotRequest) (*clusterv1.DropSnapshotResponse, error) {
	if err := a.node.restores.Drop(req.GetSnapshot(), req.GetAttempt()); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &clusterv1.DropSnapshotResponse{}, nil
}

// GetSnapshot returns a part of a snapshot.
func (a restoreAPI) GetSnapshot(_ context.Context, req *clusterv1.GetSnapshotRequest) (*clusterv1.GetSnapshotResponse, error) {
	part, err := a.node.restores.Part(req.GetSnapshot(), req.GetOffset())
	if errors.Is(err, os.ErrNotExist) {
		return nil, status.Error(codes.NotFound, "this node does not have the snapshot")
	}
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &clusterv1.GetSnapshotResponse{Part: part}, nil
}
