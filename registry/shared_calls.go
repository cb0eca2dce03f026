package registry

import (
	"context"
	"sync"
)

// sharedCalls shares long calls with the same key among simultaneous callers. In contrast to
// shareCall, a call has no time limit and is cancelled when its last caller leaves.
type sharedCalls[T any] struct {
	group *callGroup // owns the goroutines

	mu    sync.Mutex
	calls map[string]*sharedCall[T]
}

// sharedCall is one running call.
type sharedCall[T any] struct {
	cancel  context.CancelFunc
	callers int
	done    chan struct{}
	val     T // valid once done is closed, as is err
	err     error
}

func newSharedCalls[T any](g *callGroup) *sharedCalls[T] {
	return &sharedCalls[T]{group: g, calls: map[string]*sharedCall[T]{}}
}

// do calls fn, or waits for the running call with the same key. It returns when the call ends or
// ctx is done, whichever comes first. The last caller that leaves also waits for the call to end.
func (s *sharedCalls[T]) do(ctx context.Context, key string, fn func(context.Context) (T, error)) (T, error) {
	var zero T
	s.mu.Lock()
	call := s.calls[key]
	if call == nil {
		if !s.group.begin() {
			s.mu.Unlock()
			return zero, &kindError{kind: Unavailable, text: "the registry client is closed"}
		}
		call = &sharedCall[T]{done: make(chan struct{})}
		var callCtx context.Context
		callCtx, call.cancel = context.WithCancel(s.group.ctx)
		s.calls[key] = call
		go s.run(callCtx, key, call, fn)
	}
	call.callers++
	s.mu.Unlock()
	select {
	case <-call.done:
		return call.val, call.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	call.callers--
	last := call.callers == 0
	if last {
		call.cancel()
		s.remove(key, call)
	}
	s.mu.Unlock()
	if last {
		<-call.done // no request of this caller is left when do returns
	}
	return zero, ctx.Err()
}

// run executes a call in its own goroutine and publishes the result.
func (s *sharedCalls[T]) run(ctx context.Context, key string, call *sharedCall[T], fn func(context.Context) (T, error)) {
	defer s.group.running.Done()
	defer call.cancel()
	call.val, call.err = recoverPanic(ctx, fn)
	s.mu.Lock()
	s.remove(key, call)
	s.mu.Unlock()
	close(call.done)
}

// remove deletes a call, unless another call has its key by now. The caller holds mu.
func (s *sharedCalls[T]) remove(key string, call *sharedCall[T]) {
	if s.calls[key] == call {
		delete(s.calls, key)
	}
}
