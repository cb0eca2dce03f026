package builds_test

import (
	"errors"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func phase(n int32) imagebuilderv1.Phase   { return imagebuilderv1.Phase(n) }
func blameOf(n int32) imagebuilderv1.Blame { return imagebuilderv1.Blame(n) }

const (
	byRequester = buildsv1.StopReason_STOP_REASON_REQUESTER
	byOperator  = buildsv1.StopReason_STOP_REASON_OPERATOR
	byDeadline  = buildsv1.StopReason_STOP_REASON_DEADLINE
)

func Test_Stop_QueuedEndsAtOnce(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	m.Stop(id, byRequester, "alice")
	m.WantPhase(id, builds.Cancelled)
	if res := m.Stop(id, byRequester, "alice"); res.Err != nil {
		t.Errorf("cancelling again: %v", res.Err)
	}
}

func Test_Stop_DetachesAllButTheLast(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	m.Create("r:1", buildstest.By("bob"))
	if res := m.Stop(id, byRequester, "mallory"); !errors.Is(res.Err, builds.ErrNotRequester) {
		t.Errorf("a stranger: %v", res.Err)
	}
	if res := m.Stop(id, byRequester, "alice"); !res.Detached {
		t.Error("the first requester was not just detached")
	}
	m.WantPhase(id, builds.Queued)
	m.Stop(id, byRequester, "bob")
	m.WantPhase(id, builds.Cancelled)
}

func Test_Stop_LiveWaitsForItsOwner(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	e := m.Assign(id)
	m.Stop(id, byOperator, "")
	if b := m.Build(id); !b.CancelRequested || builds.Terminal(b.Phase) {
		t.Fatalf("build is %s, cancel requested %v", b.Phase, b.CancelRequested)
	}
	if res := m.Report(id, e, builds.Pushing, "sha256:d"); !errors.Is(res.Err, builds.ErrStopping) {
		t.Errorf("publishing a stopped build: %v", res.Err)
	}
	m.Finish(id, e, &buildsv1.FinishAttempt{Phase: builds.Cancelled})
	m.WantPhase(id, builds.Cancelled)
}

func Test_Stop_LostOwnerEndsIt(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	m.Assign(id)
	m.Stop(id, byOperator, "")
	m.Must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "boot-2"})
	m.WantPhase(id, builds.Cancelled)
}

func Test_Stop_TooLateOncePushing(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	e := m.Assign(id)
	m.Report(id, e, builds.Pushing, "sha256:d")
	if res := m.Stop(id, byRequester, "alice"); !errors.Is(res.Err, builds.ErrTooLate) {
		t.Errorf("got %v, want %v", res.Err, builds.ErrTooLate)
	}
	m.Finish(id, e, &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: "sha256:d"})
	m.WantPhase(id, builds.Succeeded)
}

func Test_Stop_Deadline(t *testing.T) {
	m := buildstest.NewMachine(t)
	queued, live := m.Create("r:1").Build.Id, m.Create("r:2").Build.Id
	e := m.Assign(live)
	m.Stop(queued, byDeadline, "")
	m.Stop(live, byDeadline, "")
	m.Finish(live, e, &buildsv1.FinishAttempt{Phase: builds.Cancelled})
	for _, id := range []string{queued, live} {
		if b := m.Build(id); b.Phase != builds.Failed || b.Blame != builds.BlameTimeout {
			t.Errorf("build is %s by %s, want failed by timeout", b.Phase, b.Blame)
		}
	}
}

// Test_Stop_DeadlineByTheTimeOfTheCommand checks that a leader whose clock is ahead ends no build
// early. At level 3 it does, as in older versions.
func Test_Stop_DeadlineByTheTimeOfTheCommand(t *testing.T) {
	for level, early := range map[uint32]error{3: nil, 4: builds.ErrNotDue} {
		m := buildstest.NewMachine(t)
		m.Must(&buildsv1.SetFeatureLevel{Level: level})
		id := m.Create("r:1").Build.Id
		m.Now = m.Now.Add(time.Hour - 1)
		if res := m.Stop(id, byDeadline, ""); !errors.Is(res.Err, early) || builds.Terminal(m.Build(id).Phase) != (early == nil) {
			t.Errorf("level %d, before the deadline: %v, the build is %s", level, res.Err, m.Build(id).Phase)
		}
		m.Now = m.Now.Add(1)
		if res := m.Stop(id, byDeadline, ""); res.Err != nil {
			t.Errorf("level %d, at the deadline: %v", level, res.Err)
		}
		m.WantPhase(id, builds.Failed)
	}
}

// Test_Cancel_TwiceIsOnce checks that a requester that repeats a cancellation gets the same result
// again, and no error that it is not a requester.
func Test_Cancel_TwiceIsOnce(t *testing.T) {
	m := buildstest.NewMachine(t)
	as := func(who string) func(*buildsv1.CreateBuild) {
		return func(c *buildsv1.CreateBuild) { c.Requester = who }
	}
	id := m.Create("r:1", as("a")).Build.Id
	m.Create("r:1", as("b"))
	for range 2 {
		res := m.Apply(&buildsv1.StopBuild{BuildId: id, Reason: buildsv1.StopReason_STOP_REASON_REQUESTER, Requester: "a"})
		if res.Err != nil || !res.Detached {
			t.Errorf("detached %v, %v", res.Detached, res.Err)
		}
	}
	res := m.Apply(&buildsv1.StopBuild{BuildId: id, Reason: buildsv1.StopReason_STOP_REASON_REQUESTER, Requester: "stranger"})
	if res.Err == nil {
		t.Error("a stranger was not refused")
	}
}
