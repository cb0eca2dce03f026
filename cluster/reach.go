package cluster

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// UnreachableTimeout is how long a node may be without a response of a leader before it counts
	// as separated from the cluster, whatever the cause. It is longer than an election takes.
	// Evidence that another node can serve clients ends the wait earlier: see separation.
	UnreachableTimeout = 3 * time.Second
	// reachInterval is how often a node checks whether it reaches a leader.
	reachInterval = 50 * time.Millisecond
	// lateLimit is how late a check or the end of a ping may be. If it is later, this process did
	// not run meanwhile, and the check proves nothing about the others.
	lateLimit = 100 * time.Millisecond
	// A separated node counts as connected again as soon as a leader responds. If it was separated
	// before within flapTimeout, a leader must respond for minReturn, and for twice the time, up to
	// maxReturn, after each further separation.
	minReturn, maxReturn = 500 * time.Millisecond, 2 * time.Second
	flapTimeout          = 10 * time.Second
)

// UnreachedText is in the error of each call that needs the leader, on a node that reaches none.
const UnreachedText = "no leader has responded to this node"

// reach records whether the requests of this node to the leader get responses. A node can hear the
// leader although its own messages do not arrive there.
type reach struct {
	mu         sync.Mutex
	calls      uint64
	pending    map[uint64]time.Time // calls to the leader without a response, with their start
	since      time.Time            // start of the first call that failed without a response; zero if there is none
	answeredAt time.Time            // last response of a leader; calls that began before count from here
	ctx        context.Context      // ends when this node counts as separated
	end        context.CancelFunc

	healthy   time.Time     // since when a leader responds again; zero if none does
	returnFor time.Duration // how long a leader must respond before ctx begins again
	returnAt  time.Time     // last begin of ctx after an end
}

func newReach() *reach {
	r := &reach{pending: map[uint64]time.Time{}}
	r.ctx, r.end = context.WithCancel(context.Background())
	return r
}

// begin records the start of a call to the leader. The caller passes the error of the call to done.
func (r *reach) begin() (done func(error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	id, start := r.calls, time.Now()
	r.pending[id] = start
	return func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.pending, id)
		switch status.Code(err) {
		case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
			if start = latest(start, r.answeredAt); r.since.IsZero() || start.Before(r.since) {
				r.since = start
			}
		default:
			r.answered(time.Now())
		}
	}
}

// answered records a response of the leader. The caller holds the lock.
func (r *reach) answered(now time.Time) {
	r.since, r.answeredAt = time.Time{}, latest(r.answeredAt, now)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// unanswered returns for how long the requests to the leader have had no response; 0 if the last
// one had a response.
func (r *reach) unanswered(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	var d time.Duration
	if !r.since.IsZero() {
		d = now.Sub(r.since)
	}
	for _, start := range r.pending {
		d = max(d, now.Sub(latest(start, r.answeredAt)))
	}
	return d
}

// separated reports whether this node counts as separated.
func (r *reach) separated() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ctx.Err() != nil
}

// responded records that a leader responds to this node, or that this node leads. It reports whether
// a separated node counts as connected again. A node that leads does so at once: a majority follows
// it.
func (r *reach) responded(now time.Time, leads bool) (returned bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answered(now)
	if r.ctx.Err() == nil {
		return false
	}
	if r.healthy.IsZero() {
		r.healthy = now
	}
	if !leads && now.Sub(r.healthy) < r.returnFor {
		return false
	}
	r.ctx, r.end = context.WithCancel(context.Background())
	r.returnAt = now
	return true
}

// silent records that no leader responds to this node. If separate is true, the node counts as
// separated from now on; silent reports whether it did not before.
func (r *reach) silent(now time.Time, separate bool) (ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.healthy = time.Time{}
	if !separate || r.ctx.Err() != nil {
		return false
	}
	if r.returnAt.IsZero() || now.Sub(r.returnAt) > flapTimeout {
		r.returnFor = 0
	} else {
		r.returnFor = min(max(2*r.returnFor, minReturn), maxReturn)
	}
	r.end()
	return true
}

// Reached returns a context that ends when this node counts as separated from the cluster, because
// it hears no leader or because its requests do not arrive. Other nodes can then serve clients, or
// none can. Once a leader responds again, Reached returns a context that goes on.
func (n *Node) Reached() context.Context {
	n.reach.mu.Lock()
	defer n.reach.mu.Unlock()
	return n.reach.ctx
}
