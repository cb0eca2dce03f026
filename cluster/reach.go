package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

const (
	// UnreachableTimeout is how long a node may be without a response of a leader before it counts
	// as separated from the cluster. It is longer than an election takes.
	UnreachableTimeout = 3 * time.Second
	// unansweredTimeout is how long a request to the leader may be without a response before the
	// node pings the leader. The leader may need longer for a command, but responds to a ping at
	// once.
	unansweredTimeout = time.Second
	// reachInterval is how often a node checks whether it reaches a leader.
	reachInterval = 500 * time.Millisecond
)

// UnreachedText is in the error of each call that needs the leader, on a node that reaches none.
const UnreachedText = "no leader has responded to this node"

// reach records whether the requests of this node to the leader get responses. A node can hear the
// leader although its own messages do not arrive there.
type reach struct {
	mu      sync.Mutex
	calls   uint64
	pending map[uint64]time.Time // calls to the leader without a response, with their start
	since   time.Time            // start of the time without a response; zero if there was one
	ctx     context.Context      // ends when since is UnreachableTimeout ago
	end     context.CancelFunc
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
			r.silentSince(start)
		default:
			r.answered()
		}
	}
}

// silentSince records that nothing was heard from a leader since t. The caller holds the lock.
func (r *reach) silentSince(t time.Time) {
	if r.since.IsZero() || t.Before(r.since) {
		r.since = t
	}
}

// answered records a response of the leader. The caller holds the lock.
func (r *reach) answered() {
	r.since = time.Time{}
	if r.ctx.Err() != nil {
		r.ctx, r.end = context.WithCancel(context.Background())
	}
}

// doubtful reports whether a ping has to find out if the leader responds.
func (r *reach) doubtful(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, start := range r.pending {
		if now.Sub(start) >= unansweredTimeout {
			return true
		}
	}
	return !r.since.IsZero()
}

// update records the result of a check at a time: heard means that a leader responds.
func (r *reach) update(now time.Time, heard bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if heard {
		r.answered()
		return
	}
	r.silentSince(now)
	for _, start := range r.pending {
		r.silentSince(start)
	}
	if now.Sub(r.since) >= UnreachableTimeout {
		r.end()
	}
}

// Reached returns a context that ends when this node has had no response of a leader for
// UnreachableTimeout, because it knows none or because its requests do not arrive. Once a leader
// responds, Reached returns a context that goes on.
func (n *Node) Reached() context.Context {
	n.reach.mu.Lock()
	defer n.reach.mu.Unlock()
	return n.reach.ctx
}

// watchReach keeps reach up to date until ctx ends. In the normal case it sends nothing.
func (n *Node) watchReach(ctx context.Context) {
	t := time.NewTicker(reachInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		began := time.Now()
		_, id := n.raft.Load().LeaderWithID()
		switch {
		case id == n.serverID():
			n.reach.update(began, true)
		case id == "":
			n.reach.update(began, false)
		case n.reach.doubtful(began):
			err := n.pingLeader(ctx, id)
			if err != nil && ctx.Err() == nil && n.Reached().Err() == nil {
				n.cfg.Logger.Warn("the leader does not respond to this node", "node", n.cfg.Name, "leader", nameOf(id), "err", err)
			}
			n.reach.update(began, err == nil)
		}
	}
}

// pingLeader returns an error if the leader does not respond to a ping.
func (n *Node) pingLeader(ctx context.Context, id raft.ServerID) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	leader, err := n.leader()
	if err != nil {
		return err
	}
	if _, err := leader.Ping(ctx, &clusterv1.PingRequest{Leader: string(id)}); err != nil {
		return fmt.Errorf("ping the leader: %w", err)
	}
	return nil
}
