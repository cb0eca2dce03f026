package builds_test

import (
	"errors"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

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
