package registry

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

const maxPause = 5 * time.Second // of the exponential back-off

// retrying calls try until it succeeds, fails for good, or Retries are used
// up. A try gets at most limit, 0 for no limit. The error is the last one. A
// registry is not asked again before its Retry-After (RFC 9110, section 10.2.3;
// taken for an hour at most). To wait for the end of a pause that another caller
// was told uses up no retry. A pause that would outlast the context's deadline
// is not begun. before, if not nil, is told of each retry.
func (c *Client) retrying(ctx context.Context, limit time.Duration, before func(error, time.Duration), try func(context.Context) error) error {
	return c.outlasting(ctx, limit, nil, before, try)
}

// outlasting is retrying, but what is away uses up no retry: it is waited for
// until ctx ends. told, which is not nil then, hears of a wait that is longer
// than retries make it, once.
func (c *Client) outlasting(ctx context.Context, limit time.Duration, told func(error), before func(error, time.Duration), try func(context.Context) error) error {
	patient := told != nil
	retries := 0
	for n := 0; ; {
		err := within(ctx, limit, try)
		if err == nil {
			return nil
		}
		f := examine(err)
		var others *pauseError
		notAsked := errors.As(err, &others)
		waits := patient && f.away
		if ctx.Err() != nil || !waits && (!f.temporary || retries >= c.opts.Retries && !notAsked) {
			return err
		}
		deadline, bounded := ctx.Deadline()
		var rest *restError
		if bounded && !patient && errors.As(err, &rest) {
			return err // a look-up is answered at once; a copy has time
		}
		var pause time.Duration
		if notAsked {
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
		if waits && told != nil && (n > c.opts.Retries || pause > maxPause) {
			told(err)
			told = nil
		}
		if notAsked {
			pause += spread(pause)
		}
		if before != nil {
			before(err, pause)
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

// within calls try with a time limit.
func within(ctx context.Context, limit time.Duration, try func(context.Context) error) error {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	_, err := guarded(ctx, func(ctx context.Context) (struct{}, error) { return struct{}{}, try(ctx) })
	return err
}

// backoff is base doubled n times, at most maxPause, of which the second half
// is scaled by random in [0, 1).
func backoff(base time.Duration, n int, random float64) time.Duration {
	d := maxPause
	if n < 16 {
		d = min(base<<n, maxPause)
	}
	return d/2 + time.Duration(random*float64(d/2))
}
