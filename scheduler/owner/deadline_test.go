package owner

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// patient is a runtime that notes its workload and runs until it is told to end.
type patient struct {
	*schedulertest.OneNode
	got chan *workload.Workload
}

func (p patient) Run(ctx context.Context, w *workload.Workload, _ workload.Sink) (workload.Outcome, error) {
	p.got <- w
	<-ctx.Done()
	return workload.Outcome{}, ctx.Err()
}

// Test_Deadline_ByTheLeadersClock: a build has its time on every node, whatever
// that one's clock says. Here it is 23 years behind the leader's, or ahead of it.
func Test_Deadline_ByTheLeadersClock(t *testing.T) {
	for name, leader := range map[string]time.Time{"behind": time.Unix(1_700_000_000, 0), "ahead": time.Unix(300_000_000, 0)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t)
				w.Now = leader
				w.Store = builds.NewStore()
				w.Apply(&buildsv1.NodeStarted{Name: "n0", StoreId: "s", BootId: "b", Capacity: 1, Runtimes: []string{"copy"}})
				ring := schedulertest.NewKeyring(t)
				w.AskFor("a", time.Hour)
				w.Now = w.Now.Add(10 * time.Minute) // it was queued
				a := w.Assignment()
				w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
				rt := patient{&schedulertest.OneNode{W: w}, make(chan *workload.Workload, 1)}
				owner := NewOwner(OwnerOptions{
					Node: a.Owner, StoreID: "s", Store: w.Store, Raft: rt, Keyring: ring, Logs: silent{}, Publisher: &slowTags{},
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
