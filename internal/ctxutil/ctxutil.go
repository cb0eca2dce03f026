// Package ctxutil has the two operations on contexts that the standard library lacks: a pause that
// a context can end, and a context that ends with either of two. It starts no goroutine that
// outlives a call.
package ctxutil

import (
	"context"
	"time"
)

// Sleep blocks for d or until ctx ends, and reports whether ctx has not ended. It returns at once
// if ctx has ended already; a negative or zero d only checks ctx.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 || ctx.Err() != nil {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Join returns a copy of ctx that also ends when other ends, with context.Canceled. Values come
// from ctx alone. The caller has to call cancel, as for context.WithCancel.
func Join(ctx, other context.Context) (joined context.Context, cancel context.CancelFunc) {
	joined, end := context.WithCancel(ctx)
	stop := context.AfterFunc(other, end)
	return joined, func() { stop(); end() }
}
