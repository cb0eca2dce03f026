package buildkit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Run solves the workload and pushes the image by digest to the repository of its base ref. It
// first stops a running workload of the same name. While no daemon responds, it waits for one. When
// Run returns, nothing of the workload runs any more, except on a daemon that does not respond.
func (r *Runtime) Run(ctx context.Context, w *workload.Workload, sink workload.Sink) (workload.Outcome, error) {
	if !w.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, w.Deadline, errDeadline)
		defer cancel()
	}
	ctx, leave, err := r.enter(ctx, w.Name())
	if err != nil {
		return workload.Outcome{}, err
	}
	defer leave()
	patterns := logs.NewPatterns(secrets.Values(w.Secrets), nil)
	out, err := r.solve(ctx, w, sink, patterns)
	if err == nil {
		return out, nil
	}
	if ctx.Err() != nil {
		err = ended(ctx, w, err)
	}
	return workload.Outcome{}, bounded(err, patterns.String)
}

// enter registers the workload. It first stops one of the same name and waits for its end. The
// caller calls the returned function when the workload has ended.
func (r *Runtime) enter(ctx context.Context, name string) (context.Context, func(), error) {
	ctx, stop := context.WithCancelCause(ctx)
	me := &running{stop: stop, done: make(chan struct{})}
	for {
		r.mu.Lock()
		former := r.running[name]
		if former == nil {
			r.running[name] = me
		}
		r.mu.Unlock()
		if former == nil {
			return ctx, func() { r.leave(name, me) }, nil
		}
		former.stop(errStopped)
		select {
		case <-former.done:
		case <-ctx.Done():
			stop(nil)
			return nil, nil, ctx.Err()
		}
	}
}

func (r *Runtime) leave(name string, me *running) {
	r.mu.Lock()
	delete(r.running, name)
	r.mu.Unlock()
	me.stop(nil)
	close(me.done)
}

// ended returns the error of a workload whose context has ended. err is the error that Run would
// have returned otherwise.
func ended(ctx context.Context, w *workload.Workload, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errDeadline):
		message := fmt.Sprintf("the build did not end before its deadline (%s)", w.Deadline.UTC().Format(time.RFC3339))
		var none *noDaemonError
		if errors.As(err, &none) {
			message += ": " + none.Error()
		}
		return &workload.Failure{Blame: builds.BlameTimeout, Message: message, Err: cause}
	case errors.Is(cause, errStopped):
		return cause
	}
	return ctx.Err()
}
