package registry

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// retry calls try until it succeeds, fails permanently, or has been retried Options.Retries times.
// It returns the last error. Each try is bounded by timeout; 0 for no bound.
//
// After a response with Retry-After (RFC 9110, section 10.2.3), the next try waits for that time,
// at most an hour. If a try was not sent because of a pause that another caller caused, waiting for
// its end does not count as a retry. If ctx has a deadline, retry returns at once when the next
// pause would end after it, or when the circuit breaker of the host is open. onRetry is called
// before the pause of each retry; it may be nil.
func (c *Client) retry(ctx context.Context, timeout time.Duration, onRetry func(error, time.Duration), try func(context.Context) error) error {
	return c.retryWhileNotReady(ctx, timeout, nil, onRetry, try)
}

// retryWhileNotReady is like retry if onLongWait is nil. Otherwise it also waits while the registry
// is not ready, until ctx ends, without using up retries. It calls onLongWait once: after
// Options.Retries retries, or before a pause longer than maxPause.
func (c *Client) retryWhileNotReady(ctx context.Context, timeout time.Duration, onLongWait func(error), onRetry func(error, time.Duration), try func(context.Context) error) error {
	mayWait := onLongWait != nil
	retries := 0
	for n := 0; ; {
		err := withTimeout(ctx, timeout, try)
		if err == nil {
			return nil
		}
		f := examine(err)
		var pauseErr *pauseError
		notSent := errors.As(err, &pauseErr)
		waits := mayWait && f.notReady
		if ctx.Err() != nil || !waits && (!f.temporary || retries >= c.opts.Retries && !notSent) {
			return err
		}
		deadline, bounded := ctx.Deadline()
		var open *openError
		if bounded && !mayWait && errors.As(err, &open) {
			return err // a look-up fails fast while the breaker is open
		}
		var pause time.Duration
		if notSent {
			pause = f.after
		} else {
			pause = max(backoff(c.opts.RetryBase, n, rand.Float64()), f.after)
			n++
			if !waits {
				retries++
			}
		}
		if bounded && time.Until(deadline) <= pause {
			return err
		}
		if waits && onLongWait != nil && (n > c.opts.Retries || pause > maxPause) {
			onLongWait(err)
			onLongWait = nil
		}
		if notSent {
			pause += spread(pause)
		}
		if onRetry != nil {
			onRetry(err, pause)
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// withTimeout calls try with a time limit; timeout 0 means none. It turns a panic into an error.
func withTimeout(ctx context.Context, timeout time.Duration, try func(context.Context) error) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	_, err := recoverPanic(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, try(ctx) })
	return err
}
