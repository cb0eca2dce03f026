package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"
)

// readBatches merges read indexes: all callers that wait for the next
// verification share it.
type readBatches struct {
	mu      sync.Mutex
	running bool
	next    *readBatch
}

type readBatch struct {
	done  chan struct{}
	index uint64
	err   error
}

// ReadIndex answers an index such that a state at or after it holds everything
// that was acknowledged before the call. It is the index that the state had
// when a quorum was asked whether this node leads, and only counts once it did
// (Raft dissertation, section 6.4).
func (n *Node) ReadIndex(ctx context.Context) (uint64, error) {
	if err := n.awaitLeadership(ctx); err != nil {
		return 0, err
	}
	b := n.reads.join(n.verifyLeader)
	select {
	case <-ctx.Done():
		return 0, fmt.Errorf("read index: %w", ctx.Err())
	case <-b.done:
		return b.index, b.err
	}
}

// join answers the batch that is verified next. One goroutine at a time
// verifies, until nobody waits.
func (r *readBatches) join(verify func() (uint64, error)) *readBatch {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == nil {
		r.next = &readBatch{done: make(chan struct{})}
	}
	b := r.next
	if !r.running {
		r.running = true
		go r.run(verify) // ends when nobody waits; verify ends with Raft
	}
	return b
}

func (r *readBatches) run(verify func() (uint64, error)) {
	for {
		r.mu.Lock()
		b := r.next
		r.next = nil
		r.running = b != nil
		r.mu.Unlock()
		if b == nil {
			return
		}
		b.index, b.err = verify()
		close(b.done)
	}
}

// verifyLeader takes the index before it asks, and makes sure that the term
// that it asks in is the one whose first command this node has applied.
func (n *Node) verifyLeader() (uint64, error) {
	n.mu.Lock()
	leads, term := n.leads, n.term
	n.mu.Unlock()
	index := n.fsm.index()
	if !leads {
		return 0, fmt.Errorf("read index: %w", ErrNoLeader)
	}
	err := n.raft.VerifyLeader().Error()
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipLost), err == nil && n.raft.CurrentTerm() != term:
		return 0, fmt.Errorf("read index: %w", ErrNoLeader)
	case err != nil:
		return 0, fmt.Errorf("read index: %w", err)
	}
	return index, nil
}
