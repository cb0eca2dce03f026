package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// Test_Decide_Revokes: the leader ends an attempt that its owner has not ended stopGrace after the
// cancel or the deadline. It decides again at that moment. Below the level it waits for the owner.
func Test_Decide_Revokes(t *testing.T) {
	for name, c := range map[string]struct {
		level  uint32
		reason buildsv1.StopReason
		after  time.Duration // from the stop
		want   int
		wake   time.Duration // from the stop; 0: the deadline
	}{
		"cancelled":                       {builds.RevokeLevel, buildsv1.StopReason_STOP_REASON_OPERATOR, 0, 0, stopGrace},
		"within the grace":                {builds.RevokeLevel, buildsv1.StopReason_STOP_REASON_OPERATOR, stopGrace - 1, 0, stopGrace},
		"at its end":                      {builds.RevokeLevel, buildsv1.StopReason_STOP_REASON_OPERATOR, stopGrace, 1, 0},
		"under a leader that comes later": {builds.RevokeLevel, buildsv1.StopReason_STOP_REASON_OPERATOR, time.Hour, 1, 0},
		"overdue":                         {builds.RevokeLevel, buildsv1.StopReason_STOP_REASON_DEADLINE, stopGrace, 1, 0},
		"below the level":                 {builds.RevokeLevel - 1, buildsv1.StopReason_STOP_REASON_OPERATOR, time.Hour, 0, 0},
		"not stopped":                     {builds.RevokeLevel, 0, 10 * time.Minute, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := schedulertest.NewWorld(t, 1)
			w.Apply(&buildsv1.SetFeatureLevel{Level: c.level})
			w.Create("a")
			a := w.Assignment()
			w.Assign(a)
			deadline := w.Now.Add(time.Hour)
			if c.reason == buildsv1.StopReason_STOP_REASON_DEADLINE {
				w.Now = deadline
			}
			stopped := w.Now
			if c.reason != 0 {
				w.Apply(&buildsv1.StopBuild{BuildId: a.BuildId, Reason: c.reason})
			}
			w.Now = w.Now.Add(c.after)
			d := decideIn(w)
			var want []*buildsv1.RevokeAttempt
			if c.want > 0 {
				want = append(want, &buildsv1.RevokeAttempt{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch})
			}
			if diff := cmp.Diff(want, d.revoke, protocmp.Transform()); diff != "" {
				t.Error(diff)
			}
			if wake := stopped.Add(c.wake); c.wake > 0 && !d.wake.Equal(wake) {
				t.Errorf("it decides again at %s, want %s", d.wake, wake)
			}
		})
	}
}

// Test_Leader_EndsWhatItsOwnerDoesNot: no owner runs. A build ends at its deadline, or after a
// cancel, within 15 s, and the former owner can change nothing.
func Test_Leader_EndsWhatItsOwnerDoesNot(t *testing.T) {
	for name, want := range map[string]imagebuilderv1.Phase{"deadline": builds.Failed, "cancel": builds.Cancelled} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t, 1, 1)
				w.Apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
				w.CreateFor("a", time.Minute)
				a := w.Assignment()
				w.Assign(a)
				from, begin := w.Now, time.Now()
				now := func() time.Time { return from.Add(time.Since(begin)) }
				raft := &clusterTime{Raft: &schedulertest.Raft{W: w}, now: now}
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				l := NewLeader(LeaderOptions{
					Store: w.Store, Raft: raft, Log: slog.New(slog.DiscardHandler), Now: now, Nodes: healthyNodes{}, LostAfter: time.Hour,
					Runtime: func(*imagebuilderv1.Source) string { return "copy" }, Adoptable: func(string) bool { return false },
				})
				go func() { done <- l.Run(ctx) }()
				if name == "cancel" {
					if _, _, err := builds.Propose(ctx, raft, &buildsv1.StopBuild{BuildId: a.BuildId, Reason: buildsv1.StopReason_STOP_REASON_OPERATOR}); err != nil {
						t.Fatal(err)
					}
				} else {
					time.Sleep(time.Minute)
				}
				time.Sleep(15 * time.Second)
				synctest.Wait()
				if got := w.Store.Build(a.BuildId).Build.Phase; got != want {
					t.Errorf("15 s later the build is %s, want %s", got, want)
				}
				_, _, err := builds.Propose(ctx, raft, &buildsv1.FinishAttempt{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Failed})
				if !errors.Is(err, builds.ErrFenced) {
					t.Errorf("the former owner ends the attempt: %v", err)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Test_Decide_DrainedNodesAreTheLastResort: with three nodes of which one is lost, a drained node
// holds the second copy of a log, and continues a workload of the lost node, but runs no attempt.
func Test_Decide_DrainedNodesAreTheLastResort(t *testing.T) {
	w := schedulertest.NewWorld(t, 10, 10, 10)
	w.Apply(&buildsv1.SetFeatureLevel{Level: 2})
	r := rules{
		alive: func(n *buildsv1.Node) bool { return !n.Lost }, runtime: func(*imagebuilderv1.Source) string { return "copy" },
		adoptable: func(string) bool { return true }, replicas: 2,
	}
	w.Create("a")
	first := decide(w.Store.View(), w.Now, r).assign[0]
	w.Assign(first)
	owner, holder := first.Owner, first.Copies[1].Node
	w.Apply(&buildsv1.DrainNode{Name: holder, Drained: true})
	if d := decide(w.Store.View(), w.Now, r); len(d.reassign) != 0 {
		t.Errorf("an attempt leaves its sound owner: %v", d.reassign)
	}
	w.Apply(&buildsv1.NodeLost{Name: owner, StoreId: "s", BootId: "b"})
	for range 3 {
		w.Create("a")
	}
	d := decide(w.Store.View(), w.Now, r)
	if len(d.reassign) != 1 || d.reassign[0].Owner != holder {
		t.Errorf("the attempt of the lost node %s, whose log %s has: %v", owner, holder, d.reassign)
	}
	if len(d.assign) != 3 {
		t.Fatalf("%d of 3 builds start", len(d.assign))
	}
	for _, a := range d.assign {
		if a.Owner == holder || a.Owner == owner || len(a.Copies) != 2 || a.Copies[1].Node != holder {
			t.Errorf("owner %s, copies %v; %s is drained and %s is lost", a.Owner, a.Copies, holder, owner)
		}
	}
}
