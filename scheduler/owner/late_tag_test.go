package owner

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// lateTag is a world in which node n0 runs the real owner, whose first tag is held up, and a test
// plays the owner on node n1.
type lateTag struct {
	t    *testing.T
	w    *schedulertest.World
	raft *schedulertest.Raft
	tags *tagRegistry
	ids  int
	// success is the digest of the newest success.
	success string
}

func newLateTag(t *testing.T, keys *secrets.Keyring) *lateTag {
	w := schedulertest.NewWorld(t, 1, 1)
	l := &lateTag{t: t, w: w, raft: &schedulertest.Raft{W: w}, tags: &tagRegistry{tags: map[string]string{}, arrived: make(chan struct{}), release: make(chan struct{})}}
	owner := New(Options{
		Node: "n0", StoreID: "s", Store: w.Store, Raft: l.raft, Keyring: keys, Logs: nullLogs{}, DamagedLogs: nullLogs{}, Publisher: l.tags,
		Runtimes: map[string]workload.Runtime{"copy": schedulertest.Runtime{}}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: time.Hour,
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- owner.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l
}

func (l *lateTag) commit(payload proto.Message) {
	l.t.Helper()
	l.raft.Mu.Lock()
	l.w.Apply(payload)
	l.raft.Mu.Unlock()
	synctest.Wait()
}

// create requests a build of the ref.
func (l *lateTag) create() {
	l.ids++
	l.commit(&buildsv1.CreateBuild{
		Id: fmt.Sprintf("%04d", l.ids), Ref: "r:image", Requester: "a", TimeoutNanos: int64(time.Hour), Force: true,
		Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "b"}}},
	})
}

// hold assigns the queued build to n0, which is then about to tag sha256:first.
func (l *lateTag) hold() {
	a := l.w.Assignment("n1")
	l.commit(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
	<-l.tags.arrived
	l.commit(&buildsv1.NodeLost{Name: "n0", StoreId: "s", BootId: "b", Reason: "test"})
}

// attempt runs the next attempt of the queued build on n1. It publishes the digest, or fails if that
// is empty.
func (l *lateTag) attempt(digest string) {
	l.t.Helper()
	l.w.Now = l.w.Now.Add(time.Minute)
	n := l.w.Assignment("n0")
	l.commit(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{n}})
	if digest == "" {
		former := l.w.Store.Build(n.BuildId).Build.Digest
		defer func() { // as Test_Publish_AFailureLeavesTheLastSuccess shows
			if want := l.w.Store.View().CommittedDigest("r:image"); former != "" && want != "" {
				l.tags.mu.Lock()
				defer l.tags.mu.Unlock()
				l.tags.tags["r:image"] = "r@" + want
			}
		}()
		l.commit(&buildsv1.FinishAttempt{BuildId: n.BuildId, Attempt: n.Attempt, Epoch: n.Epoch, Phase: builds.Failed, Blame: builds.BlameUser, Message: "exit code 1"})
		return
	}
	for _, p := range []*buildsv1.ReportPhase{{Phase: builds.Starting}, {Phase: builds.Running}, {Phase: builds.Pushing, Digest: digest, FormerDigestMissing: true}} {
		p.BuildId, p.Attempt, p.Epoch = n.BuildId, n.Attempt, n.Epoch
		l.commit(p)
	}
	l.tags.mu.Lock()
	l.tags.tags["r:image"] = "r@" + digest
	l.tags.mu.Unlock()
	l.commit(&buildsv1.FinishAttempt{BuildId: n.BuildId, Attempt: n.Attempt, Epoch: n.Epoch, Phase: builds.Succeeded, Digest: digest})
	l.success = digest
}

// check reports an error if the tag does not name the newest success.
func (l *lateTag) check(what string) {
	l.t.Helper()
	l.tags.mu.Lock()
	defer l.tags.mu.Unlock()
	if got := l.tags.tags["r:image"]; l.success != "" && got != "r@"+l.success {
		l.t.Errorf("%s: the tag names %s, but the newest success is %s", what, got, l.success)
	}
}

// Test_Publish_LateTagAfterAFailedBuild delays the request by which an owner tags its image, until
// the owner is deposed, the next attempt has tagged the same image, a second build of the ref has
// tagged another one, and a third build of the ref has failed.
func Test_Publish_LateTagAfterAFailedBuild(t *testing.T) {
	keys := schedulertest.NewKeyring(t)
	synctest.Test(t, func(t *testing.T) {
		l := newLateTag(t, keys)
		l.create()
		l.hold()
		l.attempt("sha256:first")
		l.create()
		l.attempt("sha256:second")
		l.create()
		l.attempt("")
		close(l.tags.release)
		synctest.Wait()
		l.check("after the late tag")
	})
}

// Test_Publish_OrdersOfLateTags runs three builds of one ref in 1,000 random orders. The owner of one
// of them is deposed while its tag is held up, and the tag succeeds at a random time.
func Test_Publish_OrdersOfLateTags(t *testing.T) {
	orders, keys := 1000, schedulertest.NewKeyring(t)
	if testing.Short() {
		orders = 50
	}
	for seed := range orders {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		held, late := r.IntN(3), 0
		late = held + r.IntN(4-held)
		what := fmt.Sprintf("seed %d: build %d is held up, its tag follows after %d", seed, held, late)
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLateTag(t, keys)
				for n := range 3 {
					l.create()
					if n == held {
						l.hold()
						if late == held && r.IntN(2) == 0 { // before the next attempt
							close(l.tags.release)
							synctest.Wait()
							late = -1
						}
					}
					digest := ""
					switch {
					case r.IntN(2) == 0:
						digest = fmt.Sprintf("sha256:%d", n)
					case n == held && r.IntN(2) == 0:
						digest = "sha256:first" // the next owner finds the image of the former one
					}
					l.attempt(digest)
					if n == late {
						close(l.tags.release)
						synctest.Wait()
						late = -1
					}
				}
				if late >= 0 {
					close(l.tags.release)
					synctest.Wait()
				}
				l.check(what)
			})
		})
		if !ok {
			return
		}
	}
}

// failsToTag is a registry that sets the tag of a build with two targets and then breaks.
type failsToTag struct {
	*tagRegistry
	broken string
}

func (r failsToTag) Publish(ctx context.Context, image, ref string) error {
	if ref == r.broken {
		return fmt.Errorf("the registry refuses %s", ref)
	}
	return r.tagRegistry.Publish(ctx, image, ref)
}

// failsToRun is a runtime whose workloads fail.
type failsToRun struct{ schedulertest.Runtime }

func (failsToRun) Run(context.Context, *workload.Workload, workload.Sink) (workload.Outcome, error) {
	return workload.Outcome{}, &workload.Failure{Blame: builds.BlameUser, Message: "exit code 1"}
}

// Test_Publish_AFailureLeavesTheLastSuccess: a build that fails after it, or its former owner, has
// set one of its tags gives that tag back to the last success.
func Test_Publish_AFailureLeavesTheLastSuccess(t *testing.T) {
	for name, rt := range map[string]workload.Runtime{"its own tag": schedulertest.Runtime{}, "the tag of a former owner": failsToRun{}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t, 1, 1)
				set := builds.DefaultSettings()
				set.Attempts = 1
				w.Apply(&buildsv1.PutSettings{Settings: set})
				tags := &tagRegistry{tags: map[string]string{}}
				create := func(id string) {
					w.Apply(&buildsv1.CreateBuild{
						Id: id, Ref: "r:" + id, BaseRef: "r:base", Requester: "a", TimeoutNanos: int64(time.Hour),
						Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{}}},
					})
				}
				create("0001")
				a := w.Assignment("n0")
				w.Assign(a)
				w.Apply(&buildsv1.ReportPhase{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Pushing, Digest: "sha256:good"})
				w.Apply(&buildsv1.FinishAttempt{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Succeeded, Digest: "sha256:good"})
				tags.tags["r:base"] = "r@sha256:good"
				create("0002")
				if _, own := rt.(schedulertest.Runtime); !own { // a former owner has tagged and is lost
					a := w.Assignment("n0")
					w.Assign(a)
					w.Apply(&buildsv1.ReportPhase{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Pushing, Digest: "sha256:bad"})
					tags.tags["r:base"] = "r@sha256:bad"
					w.Apply(&buildsv1.NodeLost{Name: "n1", StoreId: "s", BootId: "b"})
				}
				w.Assign(w.Assignment("n1"))
				stop := run(t, w, Options{Node: "n0", Publisher: failsToTag{tags, "r:0002"}, Runtimes: runtimes(rt)})
				time.Sleep(time.Minute)
				synctest.Wait()
				if p := w.Store.Build("0002").Build.Phase; p != builds.Failed {
					t.Errorf("the second build is %s", p)
				}
				if got := tags.tags["r:base"]; got != "r@sha256:good" {
					t.Errorf("the tag names %s, but the only success is sha256:good", got)
				}
				stop()
			})
		})
	}
}
