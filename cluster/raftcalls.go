package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// callCounter counts the calls to Raft that are in progress.
type callCounter struct {
	mu     sync.Mutex
	count  int
	closed bool
	none   chan struct{} // closed when closed is set and count is 0
}

func (c *callCounter) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.count++
	return true
}

func (c *callCounter) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count--; c.count == 0 && c.closed {
		close(c.none)
	}
}

// close refuses new calls and waits for those in progress, at most for limit.
func (c *callCounter) close(limit time.Duration) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed, c.none = true, make(chan struct{})
	left, none := c.count, c.none
	c.mu.Unlock()
	if left == 0 {
		return
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-none:
	case <-t.C:
	}
}

// await makes a call to Raft and waits for its result or the end of ctx. Raft never completes a
// call that is queued when it shuts down. So Node.Close waits for the calls in progress before, and
// await returns ErrClosed afterwards.
func (c *callCounter) await(ctx context.Context, call func() raft.Future) error {
	if !c.begin() {
		return ErrClosed
	}
	done := make(chan error, 1)
	go func() {
		defer c.end()
		done <- call().Error()
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-done:
		return err
	}
}

// failedFuture is the future of a request that was never made. Its error may be nil.
type failedFuture struct{ err error }

func (f failedFuture) Error() error  { return f.err }
func (f failedFuture) Index() uint64 { return 0 }
