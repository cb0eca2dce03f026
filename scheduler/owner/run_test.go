package owner

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// endless is a runtime that records its workload and runs until its context ends.
type endless struct {
	schedulertest.Runtime
	got chan *workload.Workload
}

func (e endless) Run(ctx context.Context, w *workload.Workload, _ workload.Sink) (workload.Outcome, error) {
	e.got <- w
	<-ctx.Done()
	return workload.Outcome{}, ctx.Err()
}

// Test_Deadline_ByTheLeadersClock: a build has its full timeout on every node, whatever the clock
// of the node says. Here the clock is 23 years behind the leader's, or ahead of it.
func Test_Deadline_ByTheLeadersClock(t *testing.T) {
	for name, leader := range map[string]time.Time{"behind": time.Unix(1_700_000_000, 0), "ahead": time.Unix(300_000_000, 0)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &schedulertest.World{T: t, Store: builds.NewStore(), Now: leader}
				w.Apply(&buildsv1.NodeStarted{Name: "n0", StoreId: "s", BootId: "b", Capacity: 1, Runtimes: []string{"copy"}})
				w.CreateFor("a", time.Hour)
				w.Now = w.Now.Add(10 * time.Minute) // in the queue
				w.Assign(w.Assignment())
				rt := endless{got: make(chan *workload.Workload, 1)}
				stop := run(t, w, Options{Node: "n0", Runtimes: runtimes(rt)})
				got := <-rt.got
				if left := time.Until(got.Deadline); left != 50*time.Minute {
					t.Errorf("the attempt has %s left, want 50 minutes", left)
				}
				if at := leader.Add(time.Hour); !got.LeadersDeadline.Equal(at) {
					t.Errorf("other machines receive %s, want %s", got.LeadersDeadline, at)
				}
				stop()
			})
		})
	}
}

// fencedLogs are logs that a new owner has fenced while they were written.
type fencedLogs struct{ nullLogs }

func (f fencedLogs) Create(*imagebuilderv1.Attempt, *imagebuilderv1.Build, *buildsv1.Secrets) (logs.AttemptWriter, error) {
	return f, nil
}
func (fencedLogs) Write([]byte) (int, error) { return 0, logs.ErrFenced }

// surviving is a runtime whose workloads outlive their owner. A workload writes a line. It ends
// with the error of fails if that is set, and with the error of the write otherwise.
type surviving struct {
	schedulertest.Runtime
	fails  func() error
	onStop func(context.Context) // may be nil
	stops  atomic.Int32
}

func (r *surviving) Survives() bool { return true }

func (r *surviving) Stop(ctx context.Context, _ string) error {
	r.stops.Add(1)
	if r.onStop != nil {
		r.onStop(ctx)
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

// lateRaft is a Raft whose state learns of a change only at a read index.
type lateRaft struct {
	*schedulertest.Raft
	change func()
}

func (r *lateRaft) ReadIndex(context.Context) (uint64, error) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	if r.change != nil {
		r.change()
		r.change = nil
	}
	return 0, nil
}

// Test_Deposed_LeavesTheWorkload: an owner that lost the attempt before its own state shows it does
// not stop the workload, which the new owner follows. It learns of the loss from its log, or from
// the read index before the stop. An owner that still owns the attempt stops the workload before it
// commits the end. If the remains of the workload still show the end, it stops them afterwards.
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
		{name: "its log is fenced", logs: fencedLogs{}, phase: builds.Starting},
		{name: "its workload's stream fails", logs: nullLogs{}, deposed: true, phase: builds.Starting},
		{name: "it is the owner", logs: nullLogs{}, stops: 1, atStop: builds.Starting, phase: builds.Failed},
		{name: "it is the owner of remains", logs: nullLogs{}, remains: true, stops: 1, atStop: builds.Failed, phase: builds.Failed},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t, 1, 1)
				w.Apply(&buildsv1.SetFeatureLevel{Level: 2})
				w.Create("a")
				a := w.Assignment()
				a.Adoptable, a.Replicas = true, 2
				a.Copies = []*imagebuilderv1.LogCopy{{Node: "n0", StoreId: "s"}, {Node: "n1", StoreId: "s"}}
				w.Assign(a)
				rt := &surviving{onStop: func(context.Context) {
					if p := w.Store.Build(a.BuildId).Build.Attempts[0].Phase; p != x.atStop {
						t.Errorf("the workload was stopped while the attempt was %s, want %s", p, x.atStop)
					}
				}}
				if x.logs == (nullLogs{}) {
					rt.fails = func() error {
						return &workload.Failure{Blame: builds.BlameUser, Message: "the stream broke", Remains: x.remains}
					}
				}
				raft := &lateRaft{Raft: &schedulertest.Raft{W: w}}
				if x.deposed {
					raft.change = func() {
						b := w.Store.Build(a.BuildId).Build
						w.Apply(&buildsv1.DrainNode{Name: a.Owner, Drained: true})
						w.Apply(&buildsv1.Reassign{Assignments: []*buildsv1.AssignAttempt_Assignment{{
							BuildId: a.BuildId, Attempt: 1, Owner: other(a.Owner), OwnerStoreId: "s", Epoch: a.Epoch + 1, BuildVersion: b.Version, Runtime: a.Runtime,
						}}})
					}
				}
				stop := run(t, w, Options{Node: a.Owner, Raft: raft, Logs: x.logs, Runtimes: runtimes(rt)})
				synctest.Wait()
				if n := rt.stops.Load(); n != x.stops {
					t.Errorf("the workload was stopped %d times, want %d", n, x.stops)
				}
				if p := w.Store.Build(a.BuildId).Build.Attempts[0].Phase; p != x.phase {
					t.Errorf("the attempt is %s, want %s", p, x.phase)
				}
				stop()
			})
		})
	}
}

// Test_Remains_GoAfterTheAttempt: the remains of a failed attempt are stopped although the next
// attempt, which ends the context of the former one, is assigned as soon as the end is committed.
func Test_Remains_GoAfterTheAttempt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 2)
		raft := &schedulertest.Raft{W: w}
		w.Create("a")
		a := w.Assignment()
		a.Adoptable = true
		w.Assign(a)
		rt := &surviving{fails: func() error {
			return &workload.Failure{Blame: builds.BlameInfrastructure, Message: "evicted", Remains: true}
		}}
		rt.onStop = func(ctx context.Context) {
			rt.onStop, rt.fails = nil, func() error { return &workload.Failure{Blame: builds.BlameUser, Message: "exit code 1"} }
			raft.Mu.Lock()
			b := w.Store.Build(a.BuildId).Build
			w.Assign(&buildsv1.AssignAttempt_Assignment{BuildId: b.Id, BuildVersion: b.Version, Attempt: 2, Epoch: a.Epoch + 1, Owner: "n0", OwnerStoreId: "s", Runtime: "copy"})
			raft.Mu.Unlock()
			ctxutil.Sleep(ctx, time.Second) // a slow API
			if len(b.Attempts) != 1 || b.Phase != builds.Queued {
				t.Errorf("the build is %s with %d attempts at the stop of the first", b.Phase, len(b.Attempts))
			}
			if ctx.Err() != nil {
				t.Errorf("the context of the stop has ended: %v", context.Cause(ctx))
			}
		}
		stop := run(t, w, Options{Node: "n0", Raft: raft, Runtimes: runtimes(rt)})
		time.Sleep(5 * time.Second) // simulated
		if rt.stops.Load() == 0 {
			t.Error("nothing was stopped")
		}
		stop()
	})
}

// slowCopies are logs whose other copies are behind until caughtUp is closed.
type slowCopies struct {
	nullLogs
	caughtUp chan struct{}
}

func (s slowCopies) Create(*imagebuilderv1.Attempt, *imagebuilderv1.Build, *buildsv1.Secrets) (logs.AttemptWriter, error) {
	return s, nil
}
func (s slowCopies) Flush(context.Context) error { <-s.caughtUp; return nil }

// Test_Digest_AfterTheLog: the digest is committed only after all copies hold the whole log. The
// next owner does not run the workload again if it finds a digest, and the build would succeed
// without the end of its log.
func Test_Digest_AfterTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1, 1)
		a := assign(w)
		copies := slowCopies{caughtUp: make(chan struct{})}
		stop := run(t, w, Options{Node: a.Owner, Logs: copies})
		synctest.Wait()
		if b := w.Store.Build(a.BuildId).Build; b.Digest != "" || b.Phase >= builds.Pushing {
			t.Errorf("%s with digest %q while a copy of the log is behind", b.Phase, b.Digest)
		}
		close(copies.caughtUp)
		time.Sleep(time.Minute)
		if b := w.Store.Build(a.BuildId).Build; b.Phase != builds.Succeeded {
			t.Errorf("the build is %s: %s", b.Phase, b.Message)
		}
		stop()
	})
}

// fullRegistry is a registry that has every image.
type fullRegistry struct{}

func (fullRegistry) Publish(context.Context, string, string) error { return nil }
func (fullRegistry) Exists(context.Context, string) (bool, error)  { return true, nil }

// unused is a runtime that must not run.
type unused struct {
	schedulertest.Runtime
	ran atomic.Bool
}

func (r *unused) Run(context.Context, *workload.Workload, workload.Sink) (workload.Outcome, error) {
	r.ran.Store(true)
	return workload.Outcome{Repository: "r", Digest: "sha256:another"}, nil
}

// Test_Publish_ACommittedDigestIsNotBuiltAgain: an attempt ended with its node after it had
// committed a digest. The next attempt finds the image and finishes without building.
func Test_Publish_ACommittedDigestIsNotBuiltAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := schedulertest.NewWorld(t, 1, 1)
		a := assign(w)
		w.Apply(&buildsv1.ReportPhase{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Pushing, Digest: "sha256:first"})
		w.Apply(&buildsv1.FinishAttempt{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Failed, Blame: builds.BlameInfrastructure, Uncounted: true})
		second := w.Assignment()
		w.Assign(second)
		rt := &unused{}
		stop := run(t, w, Options{Node: second.Owner, Publisher: fullRegistry{}, Runtimes: runtimes(rt)})
		synctest.Wait()
		stop()
		if b := w.Store.Build(a.BuildId).Build; b.Phase != builds.Succeeded || b.Digest != "sha256:first" || rt.ran.Load() {
			t.Errorf("the build is %s with %s, built again: %v", b.Phase, b.Digest, rt.ran.Load())
		}
	})
}

// formerLogs are logs that exist already, from before a snapshot was restored.
type formerLogs struct {
	nullLogs
	err error
}

func (l formerLogs) Create(*imagebuilderv1.Attempt, *imagebuilderv1.Build, *buildsv1.Secrets) (logs.AttemptWriter, error) {
	return nil, l.err
}

// Test_Restored_ALogOfBeforeDoesNotCount: an attempt whose log exists already, from before a
// snapshot was restored, ends and is not counted.
func Test_Restored_ALogOfBeforeDoesNotCount(t *testing.T) {
	for name, err := range map[string]error{"complete": logs.ErrSealed, "of a greater epoch": logs.ErrFenced} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t, 1)
				a := assign(w)
				stop := run(t, w, Options{Node: a.Owner, Logs: formerLogs{err: err}})
				synctest.Wait()
				r := w.Store.Build(a.BuildId)
				if r.Build.Phase != builds.Queued || r.Build.Attempts[0].Counted || r.CountedAttempts != 0 {
					t.Errorf("the build is %s, its attempt %v", r.Build.Phase, r.Build.Attempts[0])
				}
				stop()
			})
		})
	}
}
