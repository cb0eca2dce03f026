package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

const (
	// stopTimeout limits the stop of one workload.
	stopTimeout = time.Minute
	// maxStops is the number of workloads that are stopped at the same time. Some may be on
	// machines that do not respond.
	maxStops = 16
)

// Reaper stops workloads without a live attempt. They are left by an owner that ended before it
// could stop them. Only the leader runs it.
type Reaper struct {
	Store *builds.Store
	Raft  builds.Raft
	// Runtimes are the runtimes by name. The Reaper uses those whose workloads survive their node.
	Runtimes map[string]workload.Runtime
	// Shared names the runtimes that also list workloads of other installs. Of these, the Reaper
	// stops only workloads of builds that the state knows.
	Shared []string
	// Every is the time between checks; a minute if zero.
	Every time.Duration
	Log   *slog.Logger
}

// Run checks all runtimes repeatedly until ctx ends. It returns nil then.
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
				r.Log.Warn("cannot check for workloads without an attempt", "runtime", name, "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// reap stops the workloads of a runtime that have no live attempt. It lists the workloads before it
// reads the state, because an attempt is committed before its workload is created.
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
	stops.SetLimit(maxStops)
	for _, name := range orphans(names, r.Store.View(), shared) {
		stops.Go(func() error {
			stop, cancel := context.WithTimeout(ctx, stopTimeout)
			defer cancel()
			if err := rt.Stop(stop, name); err != nil {
				r.Log.Warn("cannot stop a workload without an attempt", "workload", name, "err", err)
				return nil // the next check tries again
			}
			r.Log.Info("stopped a workload without an attempt", "workload", name)
			return nil
		})
	}
	_ = stops.Wait() // the functions return nil
	return ctx.Err()
}

// orphans returns the workloads without a live attempt. If known is set, it returns only those of
// builds that the state has.
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

// buildOf returns the id of the build in the name of a workload.
func buildOf(workload string) string {
	id, _ := strings.CutPrefix(workload, "ib-")
	return id[:max(0, strings.LastIndexByte(id, '-'))]
}
