package owner

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// fencedLogs are logs that the next owner has fenced while they were written.
type fencedLogs struct{ silent }

func (f fencedLogs) Create(*imagebuilderv1.Attempt, *imagebuilderv1.Build, *buildsv1.Secrets) (logs.AttemptWriter, error) {
	return f, nil
}
func (fencedLogs) Write([]byte) (int, error) { return 0, logs.ErrFenced }

// surviving is a runtime whose workloads outlive their owner. They write, and
// end with what fails says, or with the write's error.
type surviving struct {
	*schedulertest.OneNode
	fails func() error
	look  func(context.Context) // at the time of a stop; may be nil
	stops atomic.Int32
}

func (r *surviving) Survives() bool { return true }
func (r *surviving) Stop(ctx context.Context, _ string) error {
	r.stops.Add(1)
	if r.look != nil {
		r.look(ctx)
	}
	return nil
}

func (r *surviving) Run(_ context.Context, _ *workload.Workload, s workload.Sink) (workload.Outcome, error) {
	_, err := s.Write([]byte("line\n"))
	if r.fails != nil {
		err = r.fails()
	}
	return workload.Outcome{}, err
}

// Test_Deposed_LeavesTheWorkload: an owner that lost the attempt, and learns of
// it by its log or by no sign at all before its own state has it, does not stop
// the workload that the next owner follows. An owner that is one does, before
// the end is committed, or after it where what remains tells the end as well.
func Test_Deposed_LeavesTheWorkload(t *testing.T) {
	for _, x := range []struct {
		name    string
		logs    Logs
		deposed bool
		remains bool
		stops   int32
		atStop  imagebuilderv1.Phase // of the attempt when its workload is stopped
		phase   imagebuilderv1.Phase // in the end
	}{
		{"its log is fenced", fencedLogs{}, false, false, 0, 0, builds.Starting},
		{"its workload's stream fails", silent{}, true, false, 0, 0, builds.Starting},
		{"it is the owner", silent{}, false, false, 1, builds.Starting, builds.Failed},
		{"it is the owner of what has ended", silent{}, false, true, 1, builds.Failed, builds.Failed},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t, 1, 1)
				raft := &schedulertest.OneNode{W: w}
				ring := schedulertest.NewKeyring(t)
				w.Apply(&buildsv1.SetFeatureLevel{Level: 2})
				w.Ask("a")
				a := w.Assignment()
				a.Adoptable, a.Replicas = true, 2
				a.Copies = []*imagebuilderv1.LogCopy{{Node: "n0", StoreId: "s"}, {Node: "n1", StoreId: "s"}}
				w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
				rt := &surviving{OneNode: raft}
				rt.look = func(context.Context) {
					if p := w.Store.Build(a.BuildId).Build.Attempts[0].Phase; p != x.atStop {
						t.Errorf("the workload was stopped while the attempt was %s, want %s", p, x.atStop)
					}
				}
				late := &lateRaft{OneNode: raft}
				if x.logs == (silent{}) {
					rt.fails = func() error {
						return &workload.Failure{Blame: builds.BlameUser, Message: "the stream broke", Remains: x.remains}
					}
				}
				if x.deposed {
					late.behind = func() {
						b := w.Store.Build(a.BuildId).Build
						w.Apply(&buildsv1.DrainNode{Name: a.Owner, Drained: true})
						w.Apply(&buildsv1.Reassign{Assignments: []*buildsv1.AssignAttempt_Assignment{{
							BuildId: a.BuildId, Attempt: 1, Owner: other(a.Owner), OwnerStoreId: "s", Epoch: a.Epoch + 1, BuildVersion: b.Version, Runtime: a.Runtime,
						}}})
					}
				}
				owner := NewOwner(OwnerOptions{
					Node: a.Owner, StoreID: "s", Store: w.Store, Raft: late, Keyring: ring, Logs: x.logs, Publisher: &slowTags{},
					Runtimes: map[string]workload.Runtime{"copy": rt}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: time.Hour,
				})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- owner.Run(ctx) }()
				synctest.Wait()
				if n := rt.stops.Load(); n != x.stops {
					t.Errorf("the workload was stopped %d times, want %d", n, x.stops)
				}
				if p := w.Store.Build(a.BuildId).Build.Attempts[0].Phase; p != x.phase {
					t.Errorf("the attempt is %s, want %s", p, x.phase)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Test_Remains_GoAfterTheAttempt: what is left of an attempt that has failed is
// stopped although the next attempt, which ends the former one's context, is
// assigned as soon as the end is committed.
func Test_Remains_GoAfterTheAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 2)
		raft := &schedulertest.OneNode{W: w}
		ring := schedulertest.NewKeyring(t)
		w.Ask("a")
		a := w.Assignment()
		a.Adoptable = true
		w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		rt := &surviving{OneNode: raft}
		rt.fails = func() error {
			return &workload.Failure{Blame: builds.BlameInfrastructure, Message: "evicted", Remains: true}
		}
		rt.look = func(ctx context.Context) {
			rt.look, rt.fails = nil, func() error { return &workload.Failure{Blame: builds.BlameUser, Message: "exit code 1"} }
			raft.Mu.Lock()
			b := w.Store.Build(a.BuildId).Build
			next := &buildsv1.AssignAttempt_Assignment{BuildId: b.Id, BuildVersion: b.Version, Attempt: 2, Epoch: a.Epoch + 1, Owner: "n0", OwnerStoreId: "s", Runtime: "copy"}
			w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{next}})
			raft.Mu.Unlock()
			ctxutil.Sleep(ctx, time.Second) // the API is slow
			if len(b.Attempts) != 1 || b.Phase != builds.Queued {
				t.Errorf("the build is %s with %d attempts at the stop of the first", b.Phase, len(b.Attempts))
			}
			if ctx.Err() != nil {
				t.Errorf("the stop was given up: %v", context.Cause(ctx))
			}
		}
		owner := NewOwner(OwnerOptions{
			Node: "n0", StoreID: "s", Store: w.Store, Raft: raft, Keyring: ring, Logs: silent{}, Publisher: &slowTags{},
			Runtimes: map[string]workload.Runtime{"copy": rt}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: time.Hour,
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- owner.Run(ctx) }()
		ctxutil.Sleep(t.Context(), 5*time.Second) // of the bubble
		if rt.stops.Load() == 0 {
			t.Error("nothing was stopped")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func other(node string) string {
	if node == "n0" {
		return "n1"
	}
	return "n0"
}

// lateRaft is one whose state gets to know what is behind at a read index only.
type lateRaft struct {
	*schedulertest.OneNode
	behind func()
}

func (r *lateRaft) ReadIndex(context.Context) (uint64, error) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	if r.behind != nil {
		r.behind()
		r.behind = nil
	}
	return 0, nil
}
