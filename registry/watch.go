package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"
)

// watch cancels a context when a transfer stalls.
type watch struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	timer   *time.Timer
	timeout time.Duration
}

// watchProgress returns a context that is cancelled when the watch sees no progress for timeout.
// The caller calls stop.
func watchProgress(ctx context.Context, timeout time.Duration) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	stalled := &kindError{kind: Unavailable, text: fmt.Sprintf("the transfer stalled for %s", timeout), temporary: true}
	w := &watch{ctx: ctx, cancel: cancel, timeout: timeout}
	w.timer = time.AfterFunc(timeout, func() { cancel(stalled) })
	return ctx, w
}

// moved reports progress.
func (w *watch) moved() { w.timer.Reset(w.timeout) }

// committing gives the destination time to store the blob. A registry on an object store moves the
// blob at this point. The extra time is enough at 8 MiB/s or more.
func (w *watch) committing(size int64) {
	w.timer.Reset(w.timeout + time.Duration(size>>23)*time.Second)
}

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// stallError returns the stall error if err is the cancellation that the stall caused, and err
// otherwise.
func (w *watch) stallError(err error) error {
	var stalled *kindError
	if errors.Is(err, context.Canceled) && errors.As(context.Cause(w.ctx), &stalled) {
		return stalled
	}
	return err
}

// throttleSteps is the number of steps into which a second's bytes are divided if there is a
// bandwidth limit. Small steps let many transfers share the bandwidth evenly.
const throttleSteps = 20

// newThrottle returns a function that waits until the bandwidth limit permits a read into p, and
// returns the part of p to read into. bytesPerSecond 0 means no limit.
func newThrottle(bytesPerSecond int64) func(context.Context, []byte) []byte {
	if bytesPerSecond <= 0 {
		return func(_ context.Context, p []byte) []byte { return p }
	}
	step := int(max(bytesPerSecond/throttleSteps, 1))
	l := rate.NewLimiter(rate.Limit(bytesPerSecond), step)
	return func(ctx context.Context, p []byte) []byte {
		p = p[:min(len(p), step)]
		_ = l.WaitN(ctx, len(p)) // if ctx ends, the read fails
		return p
	}
}
