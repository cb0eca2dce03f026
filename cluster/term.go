package cluster

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/image-builder-ha/image-builder/cluster/clock"
	"github.com/image-builder-ha/image-builder/cluster/hashes"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Term is a period in which this node leads. The leader's work proposes through it, so that a
// deposed leader proposes nothing.
type Term struct {
	number  uint64
	clock   *clock.Clock
	propose func(context.Context, *Term, *clusterv1.Command) (Applied, error)
	quiet   atomic.Bool // see Node.silent
	hashes  atomic.Pointer[hashes.Verdict]
}

// Number returns the number of Raft's term.
func (t *Term) Number() uint64 { return t.number }

// Now returns the time that a command of this term would be stamped with. It never goes back within
// a term, and it is never before the time of the state at the start of the term.
func (t *Term) Now() time.Time { return time.Unix(0, t.clock.Stamp()) }

// Propose commits a command as the leader of this term. It returns ErrNoLeader if the term is over.
// It does not change cmd.
func (t *Term) Propose(ctx context.Context, cmd *clusterv1.Command) (Applied, error) {
	return t.propose(ctx, t, cmd)
}
