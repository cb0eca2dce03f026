package wsmanager

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff is a growing pause between retries.
type backoff struct {
	min, max time.Duration
	next     time.Duration
}

// wait pauses, with jitter, and returns false if ctx has ended.
func (b *backoff) wait(ctx context.Context) bool {
	return b.waitOr(ctx, nil) == nil
}

// waitOr is like wait, but also ends when c is closed. It returns the error of ctx.
func (b *backoff) waitOr(ctx context.Context, c <-chan struct{}) error {
	b.next = min(max(2*b.next, b.min), b.max)
	t := time.NewTimer(b.next/2 + rand.N(b.next/2+1))
	defer t.Stop()
	select {
	case <-t.C:
	case <-c:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// reset makes the next pause the shortest again.
func (b *backoff) reset() { b.next = 0 }
