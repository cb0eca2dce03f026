package builds_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func Test_Create_SameRefAttaches(t *testing.T) {
	m := buildstest.NewMachine(t)
	first := m.Create("r:1")
	second := m.Create("r:1", buildstest.By("bob"))
	if !second.Attached || second.Build.Id != first.Build.Id {
		t.Fatalf("second request got build %s attached=%v, want to join %s", second.Build.Id, second.Attached, first.Build.Id)
	}
	if diff := cmp.Diff([]string{"alice", "bob"}, m.Build(first.Build.Id).Requesters); diff != "" {
		t.Error(diff)
	}
	if other := m.Create("r:2"); other.Attached {
		t.Error("another ref joined the build")
	}
}

func Test_Create_RequestIDAnswersTheSameBuild(t *testing.T) {
	m := buildstest.NewMachine(t)
	first := m.Create("r:1", buildstest.WithRequest("q1", "h"))
	m.Succeed(first.Build.Id)
	again := m.Create("r:1", buildstest.WithRequest("q1", "h"))
	if again.Build.GetId() != first.Build.Id || !again.Repeated || again.Attached {
		t.Errorf("got %+v, want the first build, repeated, not attached", again)
	}
	if res := m.Create("r:1", buildstest.WithRequest("q1", "other")); !errors.Is(res.Err, builds.ErrRequestReused) {
		t.Errorf("another payload: got %v, want %v", res.Err, builds.ErrRequestReused)
	}
	if res := m.Create("r:1", buildstest.By("bob"), buildstest.WithRequest("q1", "other")); res.Err != nil {
		t.Errorf("another requester with the same id: %v", res.Err)
	}
	m.Now = m.Now.Add(24*time.Hour + 1)
	m.Must(&buildsv1.Reap{}) // any command forgets what is too old
	if res := m.Create("r:2", buildstest.WithRequest("q1", "h")); res.Err != nil || res.Build.Id == first.Build.Id {
		t.Errorf("after the ids' age: got %v, want a new build", res.Err)
	}
}

// Test_Create_MadeRequestIDsAreSoonForgotten: those that the service made, of
// which nobody knows once their call is over. A snapshot keeps which these are.
func Test_Create_MadeRequestIDsAreSoonForgotten(t *testing.T) {
	made := func(c *buildsv1.CreateBuild) { c.RequestMade = true }
	for level, forgets := range map[uint32]bool{3: false, 4: true} {
		m := buildstest.NewMachine(t)
		m.Must(&buildsv1.SetFeatureLevel{Level: level})
		m.Create("r:1", buildstest.WithRequest("made", ""), made)
		m.Create("r:2", buildstest.WithRequest("chosen", "h"))
		m.Now = m.Now.Add(9 * time.Minute)
		m.Must(&buildsv1.Reap{})
		if m.Store.View().Request("alice", "made") == nil {
			t.Errorf("level %d: forgotten after 9 minutes", level)
		}
		if err := m.Store.Restore(bytes.NewReader(buildstest.Dump(t, m.Store))); err != nil {
			t.Fatal(err)
		}
		m.Now = m.Now.Add(time.Minute)
		m.Must(&buildsv1.Reap{})
		if forgot := m.Store.View().Request("alice", "made") == nil; forgot != forgets {
			t.Errorf("level %d: forgotten after 10 minutes: %v", level, forgot)
		}
		if m.Store.View().Request("alice", "chosen") == nil {
			t.Errorf("level %d: one that the caller chose is forgotten", level)
		}
	}
}

func Test_Create_FinishedSinceTheLookAttaches(t *testing.T) {
	m := buildstest.NewMachine(t)
	looked := m.Index
	first := m.Create("r:1")
	m.Succeed(first.Build.Id)
	late := m.Create("r:1", func(c *buildsv1.CreateBuild) { c.CheckedIndex = looked })
	if !late.Attached || late.Build.Id != first.Build.Id {
		t.Errorf("got a new build, want the one that succeeded after the look")
	}
	forced := m.Create("r:1", func(c *buildsv1.CreateBuild) { c.CheckedIndex, c.Force = looked, true })
	if forced.Attached {
		t.Error("a forced request was answered with an old build")
	}
	m.Succeed(forced.Build.Id)
	if fresh := m.Create("r:1", func(c *buildsv1.CreateBuild) { c.CheckedIndex = m.Index }); fresh.Attached {
		t.Error("a build that ended before the look answered the request")
	}
}

func Test_Create_QueueLimit(t *testing.T) {
	m := buildstest.NewMachine(t)
	set := builds.DefaultSettings()
	set.QueueTotal = 1
	m.Must(&buildsv1.PutSettings{Settings: set})
	m.Create("r:1")
	if res := m.Create("r:2"); !errors.Is(res.Err, builds.ErrQueueFull) {
		t.Errorf("got %v, want %v", res.Err, builds.ErrQueueFull)
	}
	if res := m.Create("r:1"); res.Err != nil {
		t.Errorf("joining a queued build: %v", res.Err)
	}
}

func Test_Assign_RefusesWhatWasDecidedOnAnOlderState(t *testing.T) {
	m := buildstest.NewMachine(t)
	b := m.Create("r:1").Build
	good := buildsv1.AssignAttempt_Assignment{BuildId: b.Id, Attempt: 1, Owner: "n1", OwnerStoreId: "s1", Epoch: 1, BuildVersion: b.Version, Runtime: "copy"}
	for name, spoil := range map[string]func(*buildsv1.AssignAttempt_Assignment){
		"version": func(a *buildsv1.AssignAttempt_Assignment) { a.BuildVersion-- },
		"attempt": func(a *buildsv1.AssignAttempt_Assignment) { a.Attempt = 2 },
		"epoch":   func(a *buildsv1.AssignAttempt_Assignment) { a.Epoch = 0 },
		"node":    func(a *buildsv1.AssignAttempt_Assignment) { a.Owner = "n2" },
		"store":   func(a *buildsv1.AssignAttempt_Assignment) { a.OwnerStoreId = "s0" },
		"build":   func(a *buildsv1.AssignAttempt_Assignment) { a.BuildId = "none" },
	} {
		a := buildsv1.AssignAttempt_Assignment{BuildId: good.BuildId, Attempt: 1, Owner: "n1", OwnerStoreId: "s1", Epoch: 1, BuildVersion: b.Version, Runtime: "copy"}
		spoil(&a)
		if res := m.Must(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{&a}}); res.Refused != 1 {
			t.Errorf("%s: the assignment was accepted", name)
		}
		m.WantPhase(b.Id, builds.Queued)
	}
	m.Assign(b.Id)
	if res := m.Must(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{&good}}); res.Refused != 1 {
		t.Error("a second attempt was started beside a live one")
	}
}

func Test_Epoch_FencesReportsAndEnds(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	old := m.Assign(id)
	m.Must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "boot-2", Capacity: 1, Runtimes: []string{"copy"}})
	m.WantPhase(id, builds.Queued)
	now := m.Assign(id)
	if now <= old+1 {
		t.Errorf("the next attempt has epoch %d; the sealer of the first, %d, needs one between", now, old)
	}
	for _, stale := range []struct {
		attempt uint32
		epoch   uint64
	}{{1, old}, {1, now}, {2, old}} {
		if res := m.Apply(&buildsv1.ReportPhase{BuildId: id, Attempt: stale.attempt, Epoch: stale.epoch, Phase: builds.Running}); !errors.Is(res.Err, builds.ErrFenced) {
			t.Errorf("report by attempt %d epoch %d: got %v, want %v", stale.attempt, stale.epoch, res.Err, builds.ErrFenced)
		}
		if res := m.Apply(&buildsv1.FinishAttempt{BuildId: id, Attempt: stale.attempt, Epoch: stale.epoch, Phase: builds.Failed}); !errors.Is(res.Err, builds.ErrFenced) {
			t.Errorf("end by attempt %d epoch %d: got %v, want %v", stale.attempt, stale.epoch, res.Err, builds.ErrFenced)
		}
	}
}

func Test_Phases_OnlyGrow(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	e := m.Assign(id)
	for _, p := range []struct {
		phase int32
		ok    bool
	}{{3, true}, {4, true}, {3, false}, {2, false}, {4, true}, {5, true}, {4, false}, {6, false}, {1, false}} {
		res := m.Report(id, e, phase(p.phase), "sha256:d")
		if (res.Err == nil) != p.ok {
			t.Errorf("to %s: got %v, want accepted=%v", phase(p.phase), res.Err, p.ok)
		}
	}
}

// Test_WorkloadCreated_Stays: through later reports, for the attempt that it was
// said of, and from level 4 on, as older versions do not know the field.
func Test_WorkloadCreated_Stays(t *testing.T) {
	m := buildstest.NewMachine(t)
	created := func(id string, e uint64, first imagebuilderv1.Phase) bool {
		m.Report(id, e, first, "")
		m.Apply(&buildsv1.ReportPhase{BuildId: id, Attempt: m.Attempts(id), Epoch: e, Phase: builds.Starting, WorkloadCreated: true})
		if got := m.Build(id).Phase; got != first {
			t.Errorf("from %s to %s", first, got)
		}
		m.Report(id, e, builds.Running, "")
		return builds.LastAttempt(m.Store.Build(id).Build).WorkloadCreated
	}
	m.Must(&buildsv1.SetFeatureLevel{Level: 3})
	old := m.Create("r:1").Build.Id
	if created(old, m.Assign(old), builds.Starting) {
		t.Error("kept at level 3")
	}
	m.Must(&buildsv1.SetFeatureLevel{Level: 4})
	id := m.Create("r:2").Build.Id
	e := m.Assign(id)
	if !created(id, e, builds.Starting) {
		t.Error("not kept at level 4")
	}
	if seen := m.Create("r:3").Build.Id; !created(seen, m.Assign(seen), builds.Running) {
		t.Error("not kept where it was seen to run before")
	}
	m.Finish(id, e, &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: builds.BlameInfrastructure})
	m.Assign(id)
	if a := m.Store.Build(id).Build.Attempts; !a[0].WorkloadCreated || a[1].WorkloadCreated {
		t.Errorf("first attempt %v, second %v; want true, false", a[0].WorkloadCreated, a[1].WorkloadCreated)
	}
}

func Test_Publish_SecondDigestNeedsTheFirstMissing(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	e := m.Assign(id)
	m.Report(id, e, builds.Pushing, "sha256:one")
	m.Finish(id, e, &buildsv1.FinishAttempt{Phase: builds.Failed, Blame: builds.BlameInfrastructure, Message: "registry away"})
	e = m.Assign(id)
	if res := m.Report(id, e, builds.Pushing, "sha256:two"); !errors.Is(res.Err, builds.ErrDigestCommitted) {
		t.Fatalf("second digest: got %v, want %v", res.Err, builds.ErrDigestCommitted)
	}
	res := m.Apply(&buildsv1.ReportPhase{BuildId: id, Attempt: 2, Epoch: e, Phase: builds.Pushing, Digest: "sha256:two", FormerDigestMissing: true})
	if res.Err != nil {
		t.Fatal(res.Err)
	}
	if res := m.Finish(id, e, &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: "sha256:one"}); res.Err == nil {
		t.Error("the build succeeded with a digest that its attempt did not commit")
	}
	if res := m.Finish(id, e, &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: "sha256:two"}); res.Err != nil {
		t.Error(res.Err)
	}
}

func Test_Retry_ByBlame(t *testing.T) {
	m := buildstest.NewMachine(t)
	for blame, want := range map[int32]int32{1: 7, 4: 7, 5: 7, 2: 1} {
		id := m.Create("r:" + phase(blame).String()).Build.Id
		m.Fail(id, blameOf(blame))
		m.WantPhase(id, phase(want))
	}
}

func Test_Retry_BudgetAndBackOff(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	var pauses []time.Duration
	for m.Build(id).Phase == builds.Queued {
		m.Fail(id, builds.BlameInfrastructure)
		if nb := m.Build(id).NotBefore; nb != nil {
			pauses = append(pauses, nb.AsTime().Sub(m.Now))
		}
	}
	if diff := cmp.Diff([]time.Duration{time.Second, 2 * time.Second}, pauses); diff != "" {
		t.Error("pauses:", diff)
	}
	m.WantPhase(id, builds.Failed)
	if b := m.Build(id); len(b.Attempts) != 3 || b.Blame != builds.BlameInfrastructure || !b.Attempts[0].Counted {
		t.Errorf("got %d attempts, blame %s", len(b.Attempts), b.Blame)
	}
}

func Test_Retry_NodeEndsDoNotCount(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	n := 0
	for m.Build(id).Phase == builds.Queued {
		m.Assign(id)
		n++
		m.Must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "boot-2" + string(rune('a'+n)), Capacity: 1, Runtimes: []string{"copy"}})
	}
	if n != 10 {
		t.Errorf("the build ended after %d lost attempts, want 10", n)
	}
	if r := m.Store.Build(id); r.CountedAttempts != 0 {
		t.Errorf("%d attempts were counted", r.CountedAttempts)
	}
}

func Test_NodeStarted_EndsAttemptsAndAsksForSeals(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1").Build.Id
	m.Assign(id)
	started := &buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "boot-2", Capacity: 1, Runtimes: []string{"copy"}}
	m.Must(started)
	a := m.Build(id).Attempts[0]
	if a.Phase != builds.Failed || a.Blame != builds.BlameInfrastructure || a.Log.State != builds.LogSealing {
		t.Fatalf("attempt is %s by %s, log %s", a.Phase, a.Blame, a.Log.State)
	}
	e2 := m.Assign(id)
	m.Must(started) // the same process again: no effect
	if got := m.Build(id).Attempts[1].Phase; got != builds.Assigned {
		t.Errorf("a repeated NodeStarted ended an attempt of its own process: %s", got)
	}
	if res := m.Apply(&buildsv1.SealAttempt{BuildId: id, Attempt: 1, Epoch: a.Epoch - 1, Length: 7}); !errors.Is(res.Err, builds.ErrFenced) {
		t.Errorf("seal with an old epoch: %v", res.Err)
	}
	m.Must(&buildsv1.SealAttempt{BuildId: id, Attempt: 1, Epoch: a.Epoch, Length: 7, Checksum: "x"})
	if l := m.Build(id).Attempts[0].Log; l.State != builds.LogSealed || l.Length != 7 {
		t.Errorf("log is %v", l)
	}
	m.Report(id, e2, builds.Pushing, "sha256:d")
	m.Finish(id, e2, &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: "sha256:d"})
	m.WantPhase(id, builds.Succeeded)
}

func Test_Secrets_GoAtTheEnd(t *testing.T) {
	m := buildstest.NewMachine(t)
	id := m.Create("r:1", func(c *buildsv1.CreateBuild) { c.Sealed = &buildsv1.Sealed{KeyId: "k", Ciphertext: []byte("x")} }).Build.Id
	m.Fail(id, builds.BlameInfrastructure)
	if m.Store.Build(id).Secrets == nil {
		t.Fatal("secrets went although another attempt needs them")
	}
	m.Succeed(id)
	if m.Store.Build(id).Secrets != nil {
		t.Error("secrets rest in the record of an ended build")
	}
}

func Test_Time_NeverGoesBack(t *testing.T) {
	m := buildstest.NewMachine(t)
	before := m.Store.LastTime()
	m.Now = m.Now.Add(-time.Hour)
	m.Create("r:1")
	if got := m.Store.LastTime(); got != before {
		t.Errorf("time went from %d to %d", before, got)
	}
}

func Test_Apply_UnknownCommands(t *testing.T) {
	s := builds.NewStore()
	if out, ok := s.Apply(1, &clusterv1.Command{Type: 999, Ignorable: true}).(builds.Result); !ok || out.Err != nil {
		t.Errorf("ignorable command: %v", out)
	}
	for name, cmd := range map[string]*clusterv1.Command{
		"type":    {Type: 999},
		"level":   {Type: 1, FeatureLevel: builds.FeatureLevel + 1},
		"payload": {Type: 1, Payload: []byte{0xff}},
	} {
		err, ok := s.Apply(2, cmd).(error)
		var fatal interface{ Fatal() bool }
		if !ok || !errors.As(err, &fatal) {
			t.Errorf("unknown %s: got %v, want a fatal error", name, err)
		}
	}
}
