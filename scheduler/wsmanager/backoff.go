package wsmanager

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff is the growing pause between tries of one thing.
type backoff struct {
	min, max time.Duration
	next     time.Duration
}

func (r *Runtime) backoff() *backoff {
	return &backoff{min: r.opts.MinBackoff, max: r.opts.MaxBackoff}
}

// wait pauses, with jitter, and reports whether ctx goes on.
func (b *backoff) wait(ctx context.Context) bool {
	return b.waitOr(ctx, nil) == nil
}

// waitOr pauses until c is closed at the latest. It answers ctx's error.
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

// reset begins with short pauses again.
func (b *backoff) reset() { b.next = 0 }
