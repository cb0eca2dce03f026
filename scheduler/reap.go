package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// reapTime is how long one workload may take to stop until the next one's turn.
const reapTime = time.Minute

// Reaper stops workloads that outlived their attempts: those of an owner that
// ended before it could. Only the leader runs it.
type Reaper struct {
	Store *builds.Store
	Raft  builds.Raft
	// Runtimes by name; only those whose workloads survive are looked at.
	Runtimes map[string]Runtime
	// Every is the pause between looks; a minute if zero.
	Every time.Duration
	Log   *slog.Logger
}

// Run looks until ctx ends.
func (r *Reaper) Run(ctx context.Context) error {
	every := r.Every
	if every == 0 {
		every = time.Minute
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		for name, rt := range r.Runtimes {
			if !rt.Survives() {
				continue
			}
			if err := r.reap(ctx, rt); err != nil && ctx.Err() == nil {
				r.Log.Warn("cannot look for workloads without an attempt", "runtime", name, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// reap stops what runs without an attempt. The workloads are listed before the
// state is read: an attempt is committed before its workload is created.
func (r *Reaper) reap(ctx context.Context, rt Runtime) error {
	names, err := rt.List(ctx)
	if err != nil || len(names) == 0 {
		return err
	}
	index, err := r.Raft.ReadIndex(ctx)
	if err == nil {
		err = r.Raft.WaitApplied(ctx, index)
	}
	if err != nil {
		return fmt.Errorf("read the state: %w", err)
	}
	for _, name := range orphans(names, r.Store.View()) {
		stop, cancel := context.WithTimeout(ctx, reapTime)
		err := rt.Stop(stop, name)
		cancel()
		if err != nil {
			r.Log.Warn("cannot stop a workload without an attempt", "workload", name, "err", err)
			continue
		}
		r.Log.Info("stopped a workload without an attempt", "workload", name)
	}
	return ctx.Err()
}

// orphans answers the workloads that are of no live attempt.
func orphans(names []string, view *builds.State) []string {
	live := map[string]bool{}
	view.Live(func(rec *buildsv1.Record) bool {
		for _, a := range rec.Build.Attempts {
			if builds.Live(a.Phase) {
				live[WorkloadName(rec.Build.Id, a.Number)] = true
			}
		}
		return true
	})
	var out []string
	for _, name := range names {
		if !live[name] {
			out = append(out, name)
		}
	}
	return out
}
