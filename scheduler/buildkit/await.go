package buildkit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Pauses between two attempts to find a daemon while none responds. They double from awaitFirst to
// awaitMax.
const (
	awaitFirst = 200 * time.Millisecond
	awaitMax   = 2 * time.Second
)

// waitStep is the name of the step that a build shows while it waits for a daemon.
const waitStep = "wait for a BuildKit daemon"

// await returns a daemon that responds, and waits for one if none does: the attempt does not fail
// while all daemons are away. The log and the steps of the attempt show why it waits. await fails
// when ctx ends, with a *noDaemonError if it has waited, or when DaemonWait is over. The caller
// releases the daemon.
func (r *Runtime) await(ctx context.Context, key string, w *workload.Workload, sink workload.Sink) (*endpoint, error) {
	e, err := r.pool.acquire(ctx, key, w.Attempt)
	if err == nil || ctx.Err() != nil {
		return e, err
	}
	limit := ctx
	if r.opts.DaemonWait > 0 {
		var cancel context.CancelFunc
		limit, cancel = context.WithTimeout(ctx, r.opts.DaemonWait)
		defer cancel()
	}
	startedAt := timestamppb.Now()
	r.opts.Log.Warn("a build waits: no BuildKit daemon answers", "build", w.BuildID, "attempt", w.Attempt, "err", err)
	if _, werr := fmt.Fprintf(sink, "%v; waiting for one\n", err); werr != nil {
		return nil, infrastructureFailure(fmt.Errorf("write the log: %w", werr))
	}
	sink.Steps([]*imagebuilderv1.Step{{Name: waitStep, StartedAt: startedAt}})
	for pause := awaitFirst; ; pause = min(2*pause, awaitMax) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-limit.Done():
			timer.Stop()
			if ctx.Err() != nil {
				return nil, err
			}
			return nil, infrastructureFailure(err)
		}
		var last *noDaemonError
		e, again := r.pool.acquire(limit, key, w.Attempt)
		switch {
		case again == nil:
			if _, werr := fmt.Fprintf(sink, "%s answers\n", e.url); werr != nil {
				r.pool.release(e)
				return nil, infrastructureFailure(fmt.Errorf("write the log: %w", werr))
			}
			return e, nil
		case errors.As(again, &last):
			err = again
		}
	}
}
