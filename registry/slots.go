package registry

import (
	"container/list"
	"context"
	"sync"
)

// semaphore bounds the number of requests in flight, first come, first served. Its limit may
// change. After a decrease, running requests continue, but none begins until there is room. After
// an increase, waiting requests begin at the next acquire or release.
type semaphore struct {
	limit func() int // must not block, and must not use the semaphore

	mu    sync.Mutex
	used  int
	queue list.List // of chan struct{}; a channel is closed when its waiter gets a slot
}

// acquire waits for a slot. If it returns nil, release must be called exactly once.
func (s *semaphore) acquire(ctx context.Context) error {
	in := make(chan struct{})
	s.mu.Lock()
	at := s.queue.PushBack(in)
	s.admit()
	s.mu.Unlock()
	select {
	case <-in:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-in: // got a slot at the same moment; it goes to the next waiter
		s.used--
	default:
		s.queue.Remove(at)
	}
	s.admit()
	return ctx.Err()
}

func (s *semaphore) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	s.admit()
}

func (s *semaphore) admit() {
	for limit := s.limit(); s.queue.Len() > 0 && s.used < limit; s.used++ {
		close(s.queue.Remove(s.queue.Front()).(chan struct{}))
	}
}
