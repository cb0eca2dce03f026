package registry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// flights merge equal calls: the first starts, the others wait for its answer.
// A flight runs under a context of its own, so that a caller who leaves takes
// nothing from those who wait.
type flights struct {
	group  singleflight.Group
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

func newFlights() *flights {
	ctx, cancel := context.WithCancel(context.Background())
	return &flights{ctx: ctx, cancel: cancel}
}

// close ends all flights and waits for them.
func (f *flights) close() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.cancel()
	f.running.Wait()
}

func (f *flights) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.running.Add(1)
	return true
}

// guarded makes a panic of fn an error: what parses answers of strange servers
// must not end the process. Of the panic only its type is told, its text may
// hold what a server sent.
func guarded[T any](ctx context.Context, fn func(context.Context) (T, error)) (val T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &kindError{kind: Unavailable, text: fmt.Sprintf("its answer caused a panic (%T) in the registry client; please report it", p)}
		}
	}()
	return fn(ctx)
}

// merged calls fn once for all callers with the same key, for at most limit.
func merged[T any](ctx context.Context, f *flights, key string, limit time.Duration, fn func(context.Context) (T, error)) (T, error) {
	ch := f.group.DoChan(key, func() (any, error) {
		if !f.begin() {
			return nil, &kindError{kind: Unavailable, text: "the registry client is closed"}
		}
		defer f.running.Done()
		ctx, cancel := context.WithTimeout(f.ctx, limit)
		defer cancel()
		return guarded(ctx, fn)
	})
	var zero T
	select {
	case <-ctx.Done():
		return zero, ctx.Err()
	case r := <-ch:
		if r.Err != nil {
			return zero, r.Err
		}
		return r.Val.(T), nil
	}
}
