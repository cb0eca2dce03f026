package registry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestRetry_NotBeforeRetryAfter expects a call to wait as long as the registry asks for, or to fail
// at once if there is not enough time.
func TestRetry_NotBeforeRetryAfter(t *testing.T) {
	for name, c := range map[string]struct {
		after, limit, took time.Duration
		tries              int
	}{
		"a minute, no limit":           {after: time.Minute, took: time.Minute, tries: 2},
		"a minute of two":              {after: time.Minute, limit: 2 * time.Minute, took: time.Minute, tries: 2},
		"longer than there is time":    {after: time.Minute, limit: 30 * time.Second, tries: 1},
		"less than the usual back-off": {after: time.Nanosecond, took: time.Second / 2, tries: 2},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if c.limit > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.limit)
					defer cancel()
				}
				client := &Client{opts: Options{Retries: 3, RetryBase: time.Second}}
				begin, tries := time.Now(), 0
				err := client.retry(ctx, 0, nil, func(context.Context) error {
					if tries++; tries == 1 {
						return &statusError{code: 429, after: c.after}
					}
					return nil
				})
				if took := time.Since(begin); took < c.took || took > c.took+time.Second || tries != c.tries || (err == nil) != (c.tries == 2) {
					t.Errorf("%d tries in %s (%v), want %d not before %s", tries, took, err, c.tries, c.took)
				}
			})
		})
	}
}

// TestRetry_WaitsForTheEndOfAnothersPause expects waiting for a pause of another caller not to
// count as a retry, to end shortly after the pause, and not to begin if there is not enough time.
func TestRetry_WaitsForTheEndOfAnothersPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &Client{opts: Options{Retries: 1, RetryBase: time.Second}}
		begin, sent := time.Now(), 0
		try := func(context.Context) error {
			if left := time.Minute - time.Since(begin); left > 0 {
				return &pauseError{"h", min(left, 10*time.Second)}
			}
			if sent++; sent == 1 {
				return &statusError{code: 500}
			}
			return nil
		}
		if err := client.retry(t.Context(), 0, nil, try); err != nil || sent != 2 {
			t.Errorf("%v after %d requests", err, sent)
		}
		if took := time.Since(begin); took < time.Minute || took > time.Minute+6*2500*time.Millisecond {
			t.Errorf("took %s", took)
		}
		begin = time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var pause *pauseError
		if err := client.retry(ctx, 0, nil, try); !errors.As(err, &pause) || examine(err).kind != RateLimited || time.Since(begin) != 0 {
			t.Errorf("%v after %s", err, time.Since(begin))
		}
	})
}
