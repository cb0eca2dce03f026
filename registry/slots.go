package registry

import (
	"container/list"
	"context"
	"sync"
)

// slots bound how many requests are under way, first come, first served. The
// bound may change: where it shrinks nothing is cut off, but nothing begins
// until there is room; where it grows the next that comes or goes lets in those
// who wait.
type slots struct {
	limit func() int // must not block, nor use the slots

	mu    sync.Mutex
	used  int
	queue list.List // of chan struct{}, closed when let in
}

// acquire waits for room. release must be called once if it answers nil.
func (s *slots) acquire(ctx context.Context) error {
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
	case <-in: // let in when it had left: the room is for the next
		s.used--
	default:
		s.queue.Remove(at)
	}
	s.admit()
	return ctx.Err()
}

func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used--
	s.admit()
}

func (s *slots) admit() {
	for limit := s.limit(); s.queue.Len() > 0 && s.used < limit; s.used++ {
		close(s.queue.Remove(s.queue.Front()).(chan struct{}))
	}
}
