package node

import (
	"context"
	"errors"
	mathrand "math/rand/v2"
	"slices"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/scheduler"
)

// raftAdapter lets the domain use the cluster, which knows no builds.
type raftAdapter struct{ cluster *cluster.Node }

var _ builds.Raft = raftAdapter{}

// Propose asks again while the outcome is unknown: every command of builds can
// be repeated.
func (a raftAdapter) Propose(ctx context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	for {
		res, err := a.cluster.Propose(ctx, proto.CloneOf(cmd))
		if err == nil {
			return res.Index, res.Result, nil
		}
		if !errors.Is(err, cluster.ErrOutcomeUnknown) || !ctxutil.Sleep(ctx, unknownPause()) {
			return 0, nil, clusterError(err)
		}
	}
}

func (a raftAdapter) ReadIndex(ctx context.Context) (uint64, error) {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	index, err := a.cluster.ReadIndex(ctx)
	return index, clusterError(err)
}

func (a raftAdapter) WaitApplied(ctx context.Context, index uint64) error {
	ctx, cancel := withinDeadline(ctx)
	defer cancel()
	return clusterError(a.cluster.WaitApplied(ctx, index))
}

func (a raftAdapter) Freshness() (uint64, bool, time.Duration) {
	s := a.cluster.Status()
	return s.Applied, s.LeaderID != "", s.LastContact
}

// termAdapter commits as the leader of one term.
type termAdapter struct {
	raftAdapter
	term *cluster.Term
}

var _ builds.Raft = termAdapter{}

func (a termAdapter) Propose(ctx context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	res, err := a.term.Propose(ctx, cmd)
	if err != nil {
		return 0, nil, clusterError(err)
	}
	return res.Index, res.Result, nil
}

// leaderTimeout is how long a call without a deadline waits for a leader.
const leaderTimeout = 5 * time.Second

// withinDeadline returns a context for the wait for a leader. It ends early enough for the response
// to reach the caller before the deadline of ctx.
func withinDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	d := leaderTimeout
	if t, ok := ctx.Deadline(); ok {
		left := time.Until(t)
		d = min(d, left-min(left/10, 300*time.Millisecond))
	}
	return context.WithTimeout(ctx, d)
}

// unknownPause is the pause before a command whose outcome is unknown is
// proposed again. All commands can be repeated: builds carry request ids,
// attempts epochs, decisions versions.
func unknownPause() time.Duration { return 2*time.Millisecond + mathrand.N(5*time.Millisecond) }

// liveness shows the scheduler what the cluster knows.
type liveness struct {
	cluster   *cluster.Node
	restoring *atomic.Bool
}

var _ scheduler.Liveness = liveness{}

func (l liveness) Peer(name, storeID string) (string, time.Duration, bool) {
	p := l.cluster.Peer(name, storeID)
	return p.BootID, p.Silent, p.Dead
}

func (l liveness) Takes(name, storeID string) bool {
	return !l.restoring.Load() && !l.cluster.Peer(name, storeID).RefusesBuilds
}

func (l liveness) Member(name, storeID string) bool {
	return slices.ContainsFunc(l.cluster.Members(), func(m cluster.Member) bool { return m.ServerID == name+"/"+storeID })
}

func (l liveness) PeersChanged() <-chan struct{} { return l.cluster.PeersChanged() }
