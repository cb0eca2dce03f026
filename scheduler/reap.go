package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"golang.org/x/sync/errgroup"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

const (
	// reapTime is how long one workload may take to stop until the next one's
	// turn.
	reapTime = time.Minute
	// reapAtOnce is how many are stopped at a time: each takes some requests,
	// and some may be on machines that do not answer.
	reapAtOnce = 16
)

// Reaper stops workloads that outlived their attempts: those of an owner that
// ended before it could. Only the leader runs it.
type Reaper struct {
	Store *builds.Store
	Raft  builds.Raft
	// Runtimes by name; only those whose workloads survive are looked at.
	Runtimes map[string]workload.Runtime
	// Shared are the runtimes that list workloads of other installs, too: of
	// theirs only those are stopped whose build the state knows.
	Shared []string
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
			if err := r.reap(ctx, rt, slices.Contains(r.Shared, name)); err != nil && ctx.Err() == nil {
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
func (r *Reaper) reap(ctx context.Context, rt workload.Runtime, shared bool) error {
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
	var stops errgroup.Group
	stops.SetLimit(reapAtOnce)
	for _, name := range orphans(names, r.Store.View(), shared) {
		stops.Go(func() error {
			stop, cancel := context.WithTimeout(ctx, reapTime)
			defer cancel()
			if err := rt.Stop(stop, name); err != nil {
				r.Log.Warn("cannot stop a workload without an attempt", "workload", name, "err", err)
				return nil // its next turn comes
			}
			r.Log.Info("stopped a workload without an attempt", "workload", name)
			return nil
		})
	}
	_ = stops.Wait() // none fails
	return ctx.Err()
}

// orphans answers the workloads that are of no live attempt; where known is
// set, only those of builds that the state has.
func orphans(names []string, view *builds.State, known bool) []string {
	live := map[string]bool{}
	view.Live(func(rec *buildsv1.Record) bool {
		for _, a := range rec.Build.Attempts {
			if builds.Live(a.Phase) {
				live[workload.Name(rec.Build.Id, a.Number)] = true
			}
		}
		return true
	})
	var out []string
	for _, name := range names {
		if !live[name] && (!known || view.Build(buildOf(name)) != nil) {
			out = append(out, name)
		}
	}
	return out
}

// buildOf is the build of a workload's name.
func buildOf(workload string) string {
	id, _ := strings.CutPrefix(workload, "ib-")
	return id[:max(0, strings.LastIndexByte(id, '-'))]
}
