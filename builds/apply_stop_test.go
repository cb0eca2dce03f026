package builds_test

import (
	"errors"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func phase(n int32) imagebuilderv1.Phase   { return imagebuilderv1.Phase(n) }
func blameOf(n int32) imagebuilderv1.Blame { return imagebuilderv1.Blame(n) }

func (m *machine) stop(id string, reason buildsv1.StopReason, who string) builds.Result {
	m.t.Helper()
	return m.apply(&buildsv1.StopBuild{BuildId: id, Reason: reason, Requester: who})
}

const (
	byRequester = buildsv1.StopReason_STOP_REASON_REQUESTER
	byOperator  = buildsv1.StopReason_STOP_REASON_OPERATOR
	byDeadline  = buildsv1.StopReason_STOP_REASON_DEADLINE
)

func Test_Stop_QueuedEndsAtOnce(t *testing.T) {
	m := newMachine(t)
	id := m.create("r:1").Build.Id
	m.stop(id, byRequester, "alice")
	m.wantPhase(id, builds.Cancelled)
	if res := m.stop(id, byRequester, "alice"); res.Err != nil {
		t.Errorf("cancelling again: %v", res.Err)
	}
}

func Test_Stop_DetachesAllButTheLast(t *testing.T) {
	m := newMachine(t)
	id := m.create("r:1").Build.Id
	m.create("r:1", by("bob"))
	if res := m.stop(id, byRequester, "mallory"); !errors.Is(res.Err, builds.ErrNotRequester) {
		t.Errorf("a stranger: %v", res.Err)
	}
	if res := m.stop(id, byRequester, "alice"); !res.Detached {
		t.Error("the first requester was not just detached")
	}
	m.wantPhase(id, builds.Queued)
	m.stop(id, byRequester, "bob")
	m.wantPhase(id, builds.Cancelled)
}

func Test_Stop_LiveWaitsForItsOwner(t *testing.T) {
	m := newMachine(t)
	id := m.create("r:1").Build.Id
	e := m.assign(id)
	m.stop(id, byOperator, "")
	if b := m.build(id); !b.CancelRequested || builds.Terminal(b.Phase) {
		t.Fatalf("build is %s, cancel requested %v", b.Phase, b.CancelRequested)
	}
	if res := m.report(id, e, builds.Pushing, "sha256:d"); !errors.Is(res.Err, builds.ErrStopping) {
		t.Errorf("publishing a stopped build: %v", res.Err)
	}
	m.finish(id, e, &buildsv1.FinishAttempt{Phase: builds.Cancelled})
	m.wantPhase(id, builds.Cancelled)
}

func Test_Stop_LostOwnerEndsIt(t *testing.T) {
	m := newMachine(t)
	id := m.create("r:1").Build.Id
	m.assign(id)
	m.stop(id, byOperator, "")
	m.must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "boot-2"})
	m.wantPhase(id, builds.Cancelled)
}

func Test_Stop_TooLateOncePushing(t *testing.T) {
	m := newMachine(t)
	id := m.create("r:1").Build.Id
	e := m.assign(id)
	m.report(id, e, builds.Pushing, "sha256:d")
	if res := m.stop(id, byRequester, "alice"); !errors.Is(res.Err, builds.ErrTooLate) {
		t.Errorf("got %v, want %v", res.Err, builds.ErrTooLate)
	}
	m.finish(id, e, &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: "sha256:d"})
	m.wantPhase(id, builds.Succeeded)
}

func Test_Stop_Deadline(t *testing.T) {
	m := newMachine(t)
	queued, live := m.create("r:1").Build.Id, m.create("r:2").Build.Id
	e := m.assign(live)
	m.stop(queued, byDeadline, "")
	m.stop(live, byDeadline, "")
	m.finish(live, e, &buildsv1.FinishAttempt{Phase: builds.Cancelled})
	for _, id := range []string{queued, live} {
		if b := m.build(id); b.Phase != builds.Failed || b.Blame != builds.BlameTimeout {
			t.Errorf("build is %s by %s, want failed by timeout", b.Phase, b.Blame)
		}
	}
}

// Test_Stop_DeadlineByTheTimeOfTheCommand: a leader whose own clock is ahead ends
// no build. Older versions, which a cluster may have at level 3, let it.
func Test_Stop_DeadlineByTheTimeOfTheCommand(t *testing.T) {
	for level, early := range map[uint32]error{3: nil, 4: builds.ErrNotDue} {
		m := newMachine(t)
		m.must(&buildsv1.SetFeatureLevel{Level: level})
		id := m.create("r:1").Build.Id
		m.now = m.now.Add(time.Hour - 1)
		if res := m.stop(id, byDeadline, ""); !errors.Is(res.Err, early) || builds.Terminal(m.build(id).Phase) != (early == nil) {
			t.Errorf("level %d, before the deadline: %v, the build is %s", level, res.Err, m.build(id).Phase)
		}
		m.now = m.now.Add(1)
		if res := m.stop(id, byDeadline, ""); res.Err != nil {
			t.Errorf("level %d, at the deadline: %v", level, res.Err)
		}
		m.wantPhase(id, builds.Failed)
	}
}

func Test_Successor_WaitsForTheStoppingBuild(t *testing.T) {
	m := newMachine(t)
	first := m.create("r:1").Build.Id
	e := m.assign(first)
	m.stop(first, byRequester, "alice")
	next := m.create("r:1", by("bob"))
	if next.Attached || next.Build.Id == first {
		t.Fatal("the request joined a build that is about to end")
	}
	if third := m.create("r:1", by("carol")); third.Build.Id != next.Build.Id || !third.Attached {
		t.Error("the third request did not join the successor")
	}
	b := m.build(next.Build.Id)
	res := m.must(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
		BuildId: b.Id, Attempt: 1, Owner: "n1", OwnerStoreId: "s1", Epoch: 1, BuildVersion: b.Version,
	}}})
	if res.Refused != 1 {
		t.Fatal("the successor runs beside the current build")
	}
	m.finish(first, e, &buildsv1.FinishAttempt{Phase: builds.Cancelled})
	m.wantPhase(first, builds.Cancelled)
	m.succeed(b.Id)
}

func Test_History_Bounds(t *testing.T) {
	m := newMachine(t)
	set := builds.DefaultSettings()
	set.HistoryTotal, set.HistoryPerRequester = 5, 3
	set.HistoryMinAgeNanos, set.HistoryMaxAgeNanos = int64(time.Minute), int64(time.Hour)
	m.must(&buildsv1.PutSettings{Settings: set})
	end := func(ref, who string) string {
		id := m.create(ref, by(who)).Build.Id
		m.succeed(id)
		return id
	}
	first := end("r:a0", "a")
	for _, ref := range []string{"r:a1", "r:a2", "r:a3"} {
		end(ref, "a")
	}
	if n := m.counts().History; n != 4 {
		t.Fatalf("history holds %d before its minimum age, want all 4", n)
	}
	m.now = m.now.Add(2 * time.Minute)
	end("r:a4", "a")
	if n := m.counts().History; n != 3 {
		t.Errorf("history of one requester holds %d, want 3", n)
	}
	if m.store.Build(first) != nil {
		t.Error("the oldest was not the one to go")
	}
	for _, ref := range []string{"r:b1", "r:b2", "r:b3"} {
		end(ref, "b")
	}
	if n := m.counts().History; n != 5 {
		t.Errorf("history holds %d, want 5", n)
	}
	m.now = m.now.Add(2 * time.Hour)
	m.must(&buildsv1.Reap{})
	if n := m.counts().History; n != 0 {
		t.Errorf("history holds %d after its maximum age, want 0", n)
	}
}

func (m *machine) counts() (c builds.Counts) {
	m.store.Read(func(s *builds.State) { c = s.Counts() })
	return c
}

// Test_Cancel_TwiceIsOnce: a requester that asks again, since it did not hear
// the answer, is told the same, and not that it has no part in the build.
func Test_Cancel_TwiceIsOnce(t *testing.T) {
	m := newMachine(t)
	as := func(who string) func(*buildsv1.CreateBuild) {
		return func(c *buildsv1.CreateBuild) { c.Requester = who }
	}
	id := m.create("r:1", as("a")).Build.Id
	m.create("r:1", as("b"))
	for range 2 {
		res := m.apply(&buildsv1.StopBuild{BuildId: id, Reason: buildsv1.StopReason_STOP_REASON_REQUESTER, Requester: "a"})
		if res.Err != nil || !res.Detached {
			t.Errorf("detached %v, %v", res.Detached, res.Err)
		}
	}
	res := m.apply(&buildsv1.StopBuild{BuildId: id, Reason: buildsv1.StopReason_STOP_REASON_REQUESTER, Requester: "stranger"})
	if res.Err == nil {
		t.Error("a stranger was not refused")
	}
}
