package buildkit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/builds/secrets"
)

// Name is the name of the runtime in the replicated state.
const Name = "buildkit"

// Runtime solves Dockerfile builds on BuildKit daemons. Methods may be called concurrently.
type Runtime struct {
	opts          Options
	pool          *pool
	watchInterval time.Duration // timeout of, and pause between, pings of a daemon that works

	mu      sync.Mutex
	running map[string]*running
}

// running is a workload that this process runs.
type running struct {
	stop context.CancelCauseFunc
	done chan struct{}
}

var _ workload.Runtime = (*Runtime)(nil)

// errStopped is the cause of a context that Stop has ended.
var errStopped = errors.New("the workload was stopped")

// New returns a runtime over the daemons in the options. It does not connect: an unreachable daemon
// is noticed when a workload needs it.
func New(o Options) (*Runtime, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if err := clearContexts(o.TempDir); err != nil {
		return nil, err
	}
	p, err := openPool(o.Daemons, o.Tracer)
	if err != nil {
		return nil, err
	}
	return &Runtime{opts: o, pool: p, watchInterval: 5 * time.Second, running: map[string]*running{}}, nil
}

// Close closes the connections. All calls of Run must have returned.
func (r *Runtime) Close() error { return r.pool.close() }

// Name returns the name of the runtime in the replicated state.
func (r *Runtime) Name() string { return Name }

// Survives returns false: a daemon cancels solves whose connection is closed.
func (r *Runtime) Survives() bool { return false }

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

// Stop ends the workload of that name. A workload of another process cannot be cancelled from here:
// Stop then waits until the daemons have ended it, which they do when its connection closes.
func (r *Runtime) Stop(ctx context.Context, name string) error {
	r.mu.Lock()
	mine := r.running[name]
	r.mu.Unlock()
	if mine != nil {
		mine.stop(errStopped)
		select {
		case <-mine.done:
		case <-ctx.Done():
			return fmt.Errorf("stop %s: %w", name, ctx.Err())
		}
	}
	for _, e := range r.pool.daemons {
		if err := e.awaitGone(ctx, name); err != nil {
			return fmt.Errorf("stop %s on %s: %w", name, e.url, err)
		}
	}
	return nil
}

// List returns the names of the workloads of this process, and of those that the daemons run for
// any owner.
func (r *Runtime) List(ctx context.Context) ([]string, error) {
	r.mu.Lock()
	names := make([]string, 0, len(r.running))
	for name := range r.running {
		names = append(names, name)
	}
	r.mu.Unlock()
	var errs []error
	for _, e := range r.pool.daemons {
		active, err := e.active(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("list the solves of %s: %w", e.url, err))
		}
		names = append(names, active...)
	}
	slices.Sort(names)
	return slices.Compact(names), errors.Join(errs...)
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

var errDeadline = errors.New("deadline of the build")
