package wsmanager

import (
	"context"
	"errors"
	"fmt"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Run starts or adopts the workspace of the workload and follows it to its end. While ws-manager is
// down, Run retries until ctx ends. The workspace tags the images that it pushes, and the outcome
// is the image that the registry then has. When ctx ends, the workspace continues. When the
// deadline of the workload passes, Run stops the workspace. Run first ends an earlier Run of the
// same workload and waits for it.
func (r *Runtime) Run(ctx context.Context, w *workload.Workload, sink workload.Sink) (workload.Outcome, error) {
	outer := ctx
	if !w.Deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadlineCause(ctx, w.Deadline, errDeadline)
		defer cancel()
	}
	ctx, me, err := r.enter(ctx, w.Name())
	if err != nil {
		return workload.Outcome{}, err
	}
	defer r.leave(w.Name(), me)
	s := &session{r: r, w: w, id: WorkspaceID(w.BuildID, w.Attempt), sink: sink, me: me}
	out, err := s.run(ctx)
	switch {
	case err == nil:
		return out, nil
	case errors.Is(err, builds.ErrFenced): // the workspace belongs to the next owner
		return workload.Outcome{}, err
	case ctx.Err() == nil:
		s.abandon(outer)
		return workload.Outcome{}, err
	case errors.Is(context.Cause(ctx), errDeadline):
		s.abandon(outer)
		return workload.Outcome{}, failureDeadline(w)
	case errors.Is(context.Cause(ctx), errStopped), errors.Is(context.Cause(ctx), errReplaced):
		return workload.Outcome{}, context.Cause(ctx)
	}
	return workload.Outcome{}, ctx.Err()
}

// enter ends an earlier Run of the same workload, waits for it, and registers this one.
func (r *Runtime) enter(ctx context.Context, name string) (context.Context, *running, error) {
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
			return ctx, me, nil
		}
		former.stop(errReplaced)
		select {
		case <-former.done:
		case <-ctx.Done():
			stop(nil)
			return nil, nil, fmt.Errorf("wait for a former run of %s: %w", name, ctx.Err())
		}
	}
}

// leave removes the registration of a Run and wakes a Run that waits for it.
func (r *Runtime) leave(name string, me *running) {
	r.mu.Lock()
	delete(r.running, name)
	r.mu.Unlock()
	me.stop(nil)
	close(me.done)
}
