package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/image-builder-ha/image-builder/cluster/serverid"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// fetchState returns the state of the leader, which contains the command at index.
func (n *Node) fetchState(ctx context.Context, index uint64) ([]byte, error) {
	_, id := n.raft.Load().LeaderWithID()
	if id == "" || id == n.serverID() {
		return nil, ErrNoLeader
	}
	client, err := n.restoreClient(id)
	if err != nil {
		return nil, err
	}
	ctx, done := n.whileLed(ctx, id)
	defer done()
	stream, err := client.GetState(ctx, &clusterv1.GetStateRequest{Index: index})
	if err != nil {
		return nil, fmt.Errorf("fetch the state of %s: %w", serverid.Name(id), err)
	}
	var raw bytes.Buffer
	for {
		res, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return raw.Bytes(), nil
		case err != nil:
			return nil, fmt.Errorf("fetch the state of %s: %w", serverid.Name(id), err)
		case raw.Len()+len(res.GetPart()) > MaxSnapshotBytes:
			return nil, fmt.Errorf("the state of %s has more than %d bytes", serverid.Name(id), MaxSnapshotBytes)
		}
		raw.Write(res.GetPart())
	}
}
