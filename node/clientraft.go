package node

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Errors of calls that need the leader, on a node that reaches none: of clients and of operators.
var (
	errUnreached         = errors.New(cluster.UnreachedText + " for too long: ask another node")
	errOperatorUnreached = errors.New(cluster.UnreachedText + " for too long: ask another node; if all nodes say so, start nodes until a majority of the voters runs, and see what this node knows with 'image-builder cluster members --stale'")
)

// clientRaft is builds.Raft for the calls of clients. While this node reaches no leader, the calls
// fail at once with UNAVAILABLE, so that clients move to another node. The node's own work waits.
// They also fail while the state of this node is wrong.
type clientRaft struct{ raftAdapter }

var _ builds.Raft = clientRaft{}

// Propose commits a command like raftAdapter.
func (c clientRaft) Propose(ctx context.Context, cmd *clusterv1.Command) (index uint64, res any, err error) {
	err = c.while(ctx, func(ctx context.Context) (err error) {
		index, res, err = c.raftAdapter.Propose(ctx, cmd)
		return err
	})
	return index, res, err
}

// ReadIndex returns a read index like raftAdapter.
func (c clientRaft) ReadIndex(ctx context.Context) (index uint64, err error) {
	err = c.while(ctx, func(ctx context.Context) (err error) {
		index, err = c.raftAdapter.ReadIndex(ctx)
		return err
	})
	return index, err
}

// WaitApplied waits for an index like raftAdapter. An index that is applied needs no leader.
func (c clientRaft) WaitApplied(ctx context.Context, index uint64) error {
	if c.cluster.Applied() >= index && c.cluster.Diverged() == nil {
		return nil
	}
	return c.while(ctx, func(ctx context.Context) error { return c.raftAdapter.WaitApplied(ctx, index) })
}

// while calls f with a context that also ends when this node reaches no leader any more. If it
// reaches none already, while does not call f.
func (c clientRaft) while(ctx context.Context, f func(context.Context) error) error {
	if err := c.cluster.Diverged(); err != nil {
		return divergedError(err)
	}
	reached := c.cluster.Reached()
	if reached.Err() != nil {
		return codedError{errUnreached, codes.Unavailable}
	}
	joined, cancel := ctxutil.Join(ctx, reached)
	defer cancel()
	err := f(joined)
	if err == nil || ctx.Err() != nil || reached.Err() == nil {
		return err
	}
	if errors.Is(err, cluster.ErrOutcomeUnknown) {
		return codedError{fmt.Errorf("%w: %w", errUnreached, err), codes.Unavailable}
	}
	return codedError{errUnreached, codes.Unavailable}
}
