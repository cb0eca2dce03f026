package scheduler

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Test_Orphans keeps what a live attempt runs, and nothing else.
func Test_Orphans(t *testing.T) {
	w := newWorld(t, 4)
	w.ask("a")
	d := w.decide()
	if len(d.assign) != 1 {
		t.Fatalf("assigned %d attempts", len(d.assign))
	}
	w.ask("queued")
	c := d.assign[0]
	w.apply(&buildsv1.AssignAttempt{Assignments: d.assign})
	live := WorkloadName(c.BuildId, 1)
	names := []string{live, WorkloadName(c.BuildId, 2), "ib-unknown-1"}
	if d := cmp.Diff(names[1:], orphans(names, w.store.View(), false)); d != "" {
		t.Errorf("orphans of a running build: %s", d)
	}
	if d := cmp.Diff(names[1:2], orphans(names, w.store.View(), true)); d != "" {
		t.Errorf("orphans of a running build, of those that are known: %s", d)
	}
	w.apply(&buildsv1.FinishAttempt{BuildId: c.BuildId, Attempt: 1, Epoch: c.Epoch, Phase: builds.Failed, Blame: builds.BlameUser})
	if d := cmp.Diff(names, orphans(names, w.store.View(), false)); d != "" {
		t.Errorf("orphans of a build that ended: %s", d)
	}
}
