package node

import (
	"context"
	"errors"
	mathrand "math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/scheduler"
)

// raftAdapter is builds.Raft on a cluster node. Every call waits for a leader until the deadline of
// its context, or for leaderTimeout without one. Errors are UNAVAILABLE for clients.
type raftAdapter struct{ cluster *cluster.Node }

var _ builds.Raft = raftAdapter{}

// Propose commits a command. While the outcome is unknown it proposes the command again, after a
// growing pause: all commands can be repeated, because builds carry request ids, attempts carry
// epochs, and decisions carry versions. It does not repeat a command that the leader refused.
func (a raftAdapter) Propose(ctx context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	for attempt := 0; ; attempt++ {
		res, err := a.cluster.Propose(ctx, cmd)
		if err == nil {
			return res.Index, res.Result, nil
		}
		if !errors.Is(err, cluster.ErrOutcomeUnknown) || !ctxutil.Sleep(ctx, unknownPause(attempt)) {
			return 0, nil, clusterError(err)
		}
	}
}

// ReadIndex returns an index such that a state at or after it is current for a linearizable read.
func (a raftAdapter) ReadIndex(ctx context.Context) (uint64, error) {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	index, err := a.cluster.ReadIndex(ctx)
	return index, clusterError(err)
}

// WaitApplied waits until this node has applied the command at index.
func (a raftAdapter) WaitApplied(ctx context.Context, index uint64) error {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	return clusterError(a.cluster.WaitApplied(ctx, index))
}

// Freshness returns the last applied index, whether a leader is known, and the time since the last
// contact with it.
func (a raftAdapter) Freshness() (uint64, bool, time.Duration) {
	s := a.cluster.Status()
	return s.Applied, s.LeaderID != "", s.LastContact
}

// termAdapter is builds.Raft for the leader of one term. Its proposals fail after the end of the
// term.
type termAdapter struct {
	raftAdapter
	term *cluster.Term
}

var _ builds.Raft = termAdapter{}

// Propose commits a command in this term, or fails. It does not repeat the command.
func (a termAdapter) Propose(ctx context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	res, err := a.term.Propose(ctx, cmd)
	if err != nil {
		return 0, nil, clusterError(err)
	}
	return res.Index, res.Result, nil
}

// leaderTimeout is how long a call waits for a leader at most.
const leaderTimeout = 5 * time.Second

// withinDeadline returns a context for the wait for a leader. It ends after leaderTimeout, and
// early enough before the deadline of ctx that the response reaches the caller.
func withinDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	d := leaderTimeout
	if t, ok := ctx.Deadline(); ok {
		left := time.Until(t)
		d = min(d, left-min(left/10, 300*time.Millisecond))
	}
	return context.WithTimeout(ctx, d)
}

// minUnknownPause and maxUnknownPause bound the pause before a command whose outcome is unknown is
// proposed again. The first pause is short, because a new leader is usually known by then.
const minUnknownPause, maxUnknownPause = 4 * time.Millisecond, 250 * time.Millisecond

// unknownPause returns the pause after a number of repetitions. It doubles with each of them, and
// is random by a half, so that waiters do not repeat their commands at the same time.
func unknownPause(repeated int) time.Duration {
	d := maxUnknownPause
	if repeated < 6 {
		d = min(minUnknownPause<<repeated, maxUnknownPause)
	}
	return d/2 + mathrand.N(d)
}

// liveness is scheduler.Liveness on a cluster node that leads.
type liveness struct {
	cluster   *cluster.Node
	restoring *atomic.Bool
}

var _ scheduler.Liveness = liveness{}

// Peer returns the boot id of a member's process, how long the member has been silent, and whether
// its process is known to have ended.
func (l liveness) Peer(name, storeID string) (string, time.Duration, bool) {
	p := l.cluster.Peer(name, storeID)
	return p.BootID, p.Silent, p.Dead
}

// Stalled returns the operation that a member does not finish, and how long it has been in
// progress.
func (l liveness) Stalled(name, storeID string) (string, time.Duration) {
	s := l.cluster.Peer(name, storeID).Stall
	return s.What, s.For
}

// Takes reports whether a node accepts new attempts. No node does while a snapshot is restored.
func (l liveness) Takes(name, storeID string) bool {
	return !l.restoring.Load() && !l.cluster.Peer(name, storeID).RefusesBuilds
}

// Member reports whether a node with this data directory is a member of the cluster.
func (l liveness) Member(name, storeID string) bool {
	return l.cluster.IsMember(name, storeID)
}

// PeersChanged returns a channel that is closed when a silent process responds again or a process
// is found dead.
func (l liveness) PeersChanged() <-chan struct{} { return l.cluster.PeersChanged() }
