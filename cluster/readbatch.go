package cluster

import (
	"context"
	"fmt"
	"sync"
)

// readBatches merges read indexes: all callers that wait for the next verification share its
// result.
type readBatches struct {
	mu      sync.Mutex
	running bool
	next    *readBatch
}

type readBatch struct {
	verify func() (uint64, error)
	done   chan struct{}
	index  uint64
	err    error
}

// wait waits for the batch that is verified next.
func (r *readBatches) wait(ctx context.Context, verify func() (uint64, error)) (uint64, error) {
	b := r.join(verify)
	select {
	case <-ctx.Done():
		return 0, fmt.Errorf("read index: %w", ctx.Err())
	case <-b.done:
		return b.index, b.err
	}
}

// join returns the batch that is verified next. One goroutine verifies batches, one at a time, as
// long as there are waiters.
func (r *readBatches) join(verify func() (uint64, error)) *readBatch {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next == nil {
		r.next = &readBatch{verify: verify, done: make(chan struct{})}
	}
	b := r.next
	if !r.running {
		r.running = true
		go r.run() // ends when there is no waiter; verify ends with Raft
	}
	return b
}

func (r *readBatches) run() {
	for {
		r.mu.Lock()
		b := r.next
		r.next = nil
		r.running = b != nil
		r.mu.Unlock()
		if b == nil {
			return
		}
		b.index, b.err = b.verify()
		close(b.done)
	}
}
