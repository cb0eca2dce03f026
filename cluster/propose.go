package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Propose commits a command and answers once it is applied here. While there
// is no leader it waits, as long as ctx allows. ErrNoLeader says that nothing
// was proposed, ErrOutcomeUnknown that the command may or may not come to be.
func (n *Node) Propose(ctx context.Context, cmd *clusterv1.Command) (Applied, error) {
	if err := n.awaitLeadership(ctx); err != nil {
		return Applied{}, err
	}
	if n.cfg.Prepare != nil {
		if err := n.cfg.Prepare(ctx, cmd); err != nil {
			return Applied{}, err
		}
	}
	return n.commit(ctx, cmd)
}

// commit stamps and proposes a command on the leader.
func (n *Node) commit(ctx context.Context, cmd *clusterv1.Command) (Applied, error) {
	cmd.TimeUnixNano = n.clock.stamp()
	cmd.Origin = n.cfg.Name
	raw, err := proto.Marshal(cmd)
	if err != nil {
		return Applied{}, fmt.Errorf("encode command: %w", err)
	}
	f := n.raft.Apply(raw, 0)
	switch err := await(ctx, f); {
	case err == nil:
		return Applied{Index: f.Index(), Result: f.Response()}, nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return Applied{}, ErrNoLeader
	case errors.Is(err, raft.ErrRaftShutdown):
		return Applied{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ErrClosed)
	default: // leadership lost, storage, or the caller's time is over
		return Applied{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
}

// await waits for a future of Raft or for ctx. A future that Raft had queued
// when it was shut down is never answered: its goroutine stays until the
// process ends, which is what shuts Raft down.
func await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	go func() { done <- f.Error() }()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-done:
		return err
	}
}

// awaitLeadership blocks until this node leads and knows it.
func (n *Node) awaitLeadership(ctx context.Context) error {
	for {
		n.mu.Lock()
		leads, changed := n.leads, n.changed
		n.mu.Unlock()
		if leads {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", ErrNoLeader, ctx.Err())
		case <-n.closed:
			return ErrClosed
		case <-changed:
		}
	}
}

// clock stamps commands. Within a term it advances by the monotonic clock,
// whatever is done to the wall clock.
type clock struct {
	now func() time.Time

	mu   sync.Mutex
	base time.Time
	last int64
}

func newClock(now func() time.Time) *clock { return &clock{now: now, base: now()} }

// begin starts a term after the greatest time that was applied before it.
func (c *clock) begin(last int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base = c.now()
	c.last = max(c.last, last)
}

func (c *clock) stamp() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.base.UnixNano() + int64(c.now().Sub(c.base)) // Sub is monotonic
	c.last = max(c.last, t)
	return c.last
}
