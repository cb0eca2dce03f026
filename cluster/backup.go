package cluster

import (
	"context"
	"errors"
	"io"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/snapshot"
)

// SaveSnapshot writes the current state to w. RestoreSnapshot and InspectSnapshot of any cluster
// can read it. It waits until ctx ends while a command is applied. It returns an error if the state
// is being replaced, or if the state machine has stopped.
func (n *Node) SaveSnapshot(ctx context.Context, w io.Writer) error {
	s, err := n.fsm.Capture(ctx)
	if err != nil {
		return err
	}
	return snapshot.Write(w, snapshot.Header{Index: s.At.Index}, s.State)
}

// InspectSnapshot verifies the framing and the checksum of a snapshot of SaveSnapshot, passes the
// state in it to check, and returns the index of the last command that it contains.
func InspectSnapshot(r io.Reader, check func(io.Reader) error) (uint64, error) {
	head, err := snapshot.Read(r, check)
	return head.Index, err
}

// Snapshot takes a snapshot now. It returns nil if there is nothing new.
func (n *Node) Snapshot(ctx context.Context) error {
	err := n.raftCalls.await(ctx, func() raft.Future { return n.raft.Load().Snapshot() })
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}
