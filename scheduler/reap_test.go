package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// Test_Orphans: all workloads are orphans but that of a live attempt.
func Test_Orphans(t *testing.T) {
	w := schedulertest.NewWorld(t, 4)
	w.Create("a")
	c := w.Assignment()
	w.Assign(c)
	w.Create("queued")
	live := workload.Name(c.BuildId, 1)
	names := []string{live, workload.Name(c.BuildId, 2), "ib-unknown-1"}
	if d := cmp.Diff(names[1:], orphans(names, w.Store.View(), false)); d != "" {
		t.Errorf("orphans of a running build: %s", d)
	}
	if d := cmp.Diff(names[1:2], orphans(names, w.Store.View(), true)); d != "" {
		t.Errorf("orphans of known builds: %s", d)
	}
	w.Apply(&buildsv1.FinishAttempt{BuildId: c.BuildId, Attempt: 1, Epoch: c.Epoch, Phase: builds.Failed, Blame: builds.BlameUser})
	if d := cmp.Diff(names, orphans(names, w.Store.View(), false)); d != "" {
		t.Errorf("orphans of a build that ended: %s", d)
	}
}

// lostMachines is a runtime with workloads of which the first ones never stop.
type lostMachines struct {
	workload.Runtime
	names []string
	stuck int

	mu      sync.Mutex
	stopped int
}

func (r *lostMachines) Survives() bool                         { return true }
func (r *lostMachines) List(context.Context) ([]string, error) { return r.names, nil }

func (r *lostMachines) Stop(ctx context.Context, name string) error {
	for _, one := range r.names[:r.stuck] {
		if name == one {
			<-ctx.Done()
			return ctx.Err()
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped++
	return nil
}

// Test_Reaper_StuckWorkloads: ten workloads on lost machines, which never stop, do not hold up the
// stop of a thousand others.
func Test_Reaper_StuckWorkloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := &lostMachines{stuck: 10}
		for i := range 1000 {
			rt.names = append(rt.names, fmt.Sprintf("ib-unknown-%d", i+1))
		}
		w := schedulertest.NewWorld(t, 4)
		r := &Reaper{Store: w.Store, Raft: &schedulertest.Raft{W: w}, Log: slog.New(slog.DiscardHandler)}
		began := time.Now()
		if err := r.reap(t.Context(), rt, false); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); rt.stopped != 990 || took > stopTimeout {
			t.Errorf("stopped %d of 990 in %s", rt.stopped, took)
		}
	})
}
