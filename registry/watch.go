package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"
)

// watch ends a context when nothing has moved for a while.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	limit  time.Duration
}

func watchProgress(ctx context.Context, limit time.Duration) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	stalled := &kindError{kind: Unavailable, text: fmt.Sprintf("the transfer stood still for %s", limit), temporary: true}
	w := &watch{ctx: ctx, cancel: cancel, limit: limit}
	w.timer = time.AfterFunc(limit, func() { cancel(stalled) })
	return ctx, w
}

func (w *watch) moved() { w.timer.Reset(w.limit) }

// committing gives the destination time to store what it got: registries that
// keep blobs in object stores move them then, at 8 MiB/s or better.
func (w *watch) committing(size int64) {
	w.timer.Reset(w.limit + time.Duration(size>>23)*time.Second)
}

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// explain answers the stall instead of the cancellation that it caused.
func (w *watch) explain(err error) error {
	var stalled *kindError
	if errors.Is(err, context.Canceled) && errors.As(context.Cause(w.ctx), &stalled) {
		return stalled
	}
	return err
}

// paceStep is the part of a second's bytes that is transferred at a time where
// there is a bandwidth limit, so that many transfers share it evenly.
const paceStep = 20

// pace makes the function that waits until the node's bandwidth has room, and
// answers the part of p that there is room for.
func pace(bytesPerSecond int64) func(context.Context, []byte) []byte {
	if bytesPerSecond <= 0 {
		return func(_ context.Context, p []byte) []byte { return p }
	}
	step := int(max(bytesPerSecond/paceStep, 1))
	l := rate.NewLimiter(rate.Limit(bytesPerSecond), step)
	return func(ctx context.Context, p []byte) []byte {
		p = p[:min(len(p), step)]
		_ = l.WaitN(ctx, len(p)) // an ended context ends the read
		return p
	}
}
