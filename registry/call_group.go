package registry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
)

// callGroup owns the goroutines of shared calls (see shareCall and sharedCalls) and ends them at
// close. A shared call runs under a context of its own. So a caller that leaves does not cancel it
// for the others.
type callGroup struct {
	group  singleflight.Group
	ctx    context.Context
	cancel context.CancelFunc

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

func newCallGroup() *callGroup {
	ctx, cancel := context.WithCancel(context.Background())
	return &callGroup{ctx: ctx, cancel: cancel}
}

// close cancels all calls and waits for them. Later calls fail.
func (g *callGroup) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.cancel()
	g.running.Wait()
}

// begin registers a call in running, and reports false if the group is closed.
func (g *callGroup) begin() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return false
	}
	g.running.Add(1)
	return true
}

// recoverPanic calls fn and turns a panic into an error, because code that parses responses of
// unknown servers must not end the process. The error contains only the type of the panic value:
// its text may contain data that a server sent.
func recoverPanic[T any](ctx context.Context, fn func(context.Context) (T, error)) (val T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &kindError{kind: Unavailable, text: fmt.Sprintf("its response caused a panic (%T) in the registry client; please report it", p)}
		}
	}()
	return fn(ctx)
}

// shareCall calls fn once for all simultaneous callers with the same key (singleflight) and returns
// its result to each. fn runs for at most timeout, even after all callers have left.
func shareCall[T any](ctx context.Context, g *callGroup, key string, timeout time.Duration, fn func(context.Context) (T, error)) (T, error) {
	ch := g.group.DoChan(key, func() (any, error) {
		if !g.begin() {
			return nil, &kindError{kind: Unavailable, text: "the registry client is closed"}
		}
		defer g.running.Done()
		ctx, cancel := context.WithTimeout(g.ctx, timeout)
		defer cancel()
		return recoverPanic(ctx, fn)
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
