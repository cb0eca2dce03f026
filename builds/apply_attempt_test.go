package builds_test

import (
	"errors"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

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

// Test_WorkloadCreated_Stays checks that an attempt keeps its WorkloadCreated through later
// reports, and that the next attempt does not have it. Below level 4 it is not stored, because
// older versions do not know the field.
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
		t.Error("not kept if the workload was reported as running before")
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
