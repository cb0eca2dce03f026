package buildkit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

var _ workload.Runtime = (*Runtime)(nil)

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
