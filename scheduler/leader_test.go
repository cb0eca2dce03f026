package scheduler

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// clusterTime is a Raft that gives each command the time of the cluster.
type clusterTime struct {
	*schedulertest.Raft
	mu  sync.Mutex
	now func() time.Time
}

func (r *clusterTime) Propose(ctx context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.W.Now = r.now()
	return r.Raft.Propose(ctx, cmd)
}

// Test_Leader_ByTheTimeOfTheCluster: a leader whose clock is two hours ahead stops a build at its
// deadline and removes a log at the end of its retention, by the time of the cluster. It does so
// although nothing else changes.
func Test_Leader_ByTheTimeOfTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1)
		time.Sleep(time.Until(w.Now.Add(2 * time.Hour)))
		w.Apply(&buildsv1.PutSettings{Settings: &buildsv1.Settings{Attempts: 3}})
		ended := w.CreateEnded(100)
		w.CreateFor("b", time.Hour)
		a := decideIn(w).assign[0]
		w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		from, begin := w.Now, time.Now()
		now := func() time.Time { return from.Add(time.Since(begin)) }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		l := NewLeader(LeaderOptions{
			Store: w.Store, Raft: &clusterTime{Raft: &schedulertest.Raft{W: w}, now: now}, Log: slog.New(slog.DiscardHandler), Now: now,
			Nodes: healthyNodes{}, LostAfter: time.Hour, Retention: Retention{Age: 90 * time.Minute},
		})
		go func() { done <- l.Run(ctx) }()
		for _, c := range []struct {
			at            time.Duration
			stopped, gone bool
		}{{55 * time.Minute, false, false}, {65 * time.Minute, true, false}, {95 * time.Minute, true, true}} {
			time.Sleep(time.Until(begin.Add(c.at)))
			synctest.Wait()
			stopped := w.Store.Build(a.BuildId).StopReason == buildsv1.StopReason_STOP_REASON_DEADLINE
			if gone := len(w.WithLog([]string{ended})) == 0; stopped != c.stopped || gone != c.gone {
				t.Errorf("after %s the build was stopped: %v, the log is gone: %v", c.at, stopped, gone)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
