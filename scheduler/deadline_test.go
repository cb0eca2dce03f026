package scheduler

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// patient is a runtime that notes its workload and runs until it is told to end.
type patient struct {
	*oneNode
	got chan *workload.Workload
}

func (p patient) Run(ctx context.Context, w *workload.Workload, _ workload.Sink) (workload.Outcome, error) {
	p.got <- w
	<-ctx.Done()
	return workload.Outcome{}, ctx.Err()
}

// stamped commits at the time of the cluster.
type stamped struct {
	*oneNode
	mu  sync.Mutex
	now func() time.Time
}

func (r *stamped) Propose(ctx context.Context, cmd *clusterv1.Command) (uint64, any, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.w.now = r.now()
	return r.oneNode.Propose(ctx, cmd)
}

// Test_Leader_ByTheTimeOfTheCluster: a leader whose clock is two hours ahead ends no
// build and removes no log before its time has come, and does then, although
// nothing else happens.
func Test_Leader_ByTheTimeOfTheCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		time.Sleep(time.Until(w.now.Add(2 * time.Hour)))
		w.apply(&buildsv1.PutSettings{Settings: &buildsv1.Settings{Attempts: 3}})
		ended := w.ended(100)
		w.askFor("b", time.Hour)
		a := w.decide().assign[0]
		w.apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		from, begin := w.now, time.Now()
		now := func() time.Time { return from.Add(time.Since(begin)) }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		l := NewLeader(LeaderOptions{
			Store: w.store, Raft: &stamped{oneNode: &oneNode{w: w}, now: now}, Log: slog.New(slog.DiscardHandler), Now: now,
			Nodes: someNodes{}, LostAfter: time.Hour, Retention: Retention{Age: 90 * time.Minute},
		})
		go func() { done <- l.Run(ctx) }()
		for _, c := range []struct {
			at            time.Duration
			stopped, gone bool
		}{{55 * time.Minute, false, false}, {65 * time.Minute, true, false}, {95 * time.Minute, true, true}} {
			time.Sleep(time.Until(begin.Add(c.at)))
			synctest.Wait()
			stopped := w.store.Build(a.BuildId).StopReason == buildsv1.StopReason_STOP_REASON_DEADLINE
			if gone := len(w.kept([]string{ended})) == 0; stopped != c.stopped || gone != c.gone {
				t.Errorf("after %s the build was stopped: %v, the log is gone: %v", c.at, stopped, gone)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Test_Deadline_ByTheLeadersClock: a build has its time on every node, whatever
// that one's clock says. Here it is 23 years behind the leader's, or ahead of it.
func Test_Deadline_ByTheLeadersClock(t *testing.T) {
	for name, leader := range map[string]time.Time{"behind": time.Unix(1_700_000_000, 0), "ahead": time.Unix(300_000_000, 0)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.now = leader
				w.store = builds.NewStore()
				w.apply(&buildsv1.NodeStarted{Name: "n0", StoreId: "s", BootId: "b", Capacity: 1, Runtimes: []string{"copy"}})
				ring := newKeyring(t)
				w.askFor("a", time.Hour)
				w.now = w.now.Add(10 * time.Minute) // it was queued
				a := w.decide().assign[0]
				w.apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
				rt := patient{&oneNode{w: w}, make(chan *workload.Workload, 1)}
				owner := NewOwner(OwnerOptions{
					Node: a.Owner, StoreID: "s", Store: w.store, Raft: rt, Keyring: ring, Logs: silent{}, Publisher: &slowTags{},
					Runtimes: map[string]workload.Runtime{"copy": rt}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: time.Hour,
				})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- owner.Run(ctx) }()
				got := <-rt.got
				if left := time.Until(got.Deadline); left != 50*time.Minute {
					t.Errorf("the attempt has %s left, want 50 minutes", left)
				}
				if at := leader.Add(time.Hour); !got.LeadersDeadline.Equal(at) {
					t.Errorf("other machines are told %s, want %s", got.LeadersDeadline, at)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
