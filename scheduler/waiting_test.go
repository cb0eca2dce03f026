package scheduler

import (
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

func Test_Waiting_Reasons(t *testing.T) {
	settings := func(total, each uint32) *buildsv1.Settings {
		s := builds.DefaultSettings()
		s.RunningTotal, s.RunningPerRequester = total, each
		return s
	}
	assign := func(w *schedulertest.World) *buildsv1.AssignAttempt_Assignment {
		d := decideIn(w)
		w.Apply(&buildsv1.AssignAttempt{Assignments: d.assign})
		return d.assign[0]
	}
	for title, c := range map[string]struct {
		nodes    []uint32
		replicas int
		prepare  func(*schedulertest.World)
		want     string
	}{
		"about to start":    {nodes: []uint32{1}, want: ""},
		"no node":           {want: "no node that is up and not drained has the runtime copy"},
		"a node is drained": {nodes: []uint32{1}, prepare: func(w *schedulertest.World) { w.Apply(&buildsv1.DrainNode{Name: "n0", Drained: true}) }, want: "no node that is up"},
		"full":              {nodes: []uint32{1}, prepare: func(w *schedulertest.World) { w.Create("b"); assign(w) }, want: "all nodes that can run it are full"},
		"all builds": {nodes: []uint32{9}, prepare: func(w *schedulertest.World) {
			w.Apply(&buildsv1.PutSettings{Settings: settings(1, 0)})
			w.Create("b")
			assign(w)
		}, want: "builds.runningTotal, 1"},
		"one requester": {nodes: []uint32{9}, prepare: func(w *schedulertest.World) {
			w.Apply(&buildsv1.PutSettings{Settings: settings(0, 1)})
			w.Create("a")
			assign(w)
		}, want: "builds.runningPerRequester, 1"},
		"no second node": {nodes: []uint32{1, 1}, replicas: 2, prepare: func(w *schedulertest.World) {
			w.Apply(&buildsv1.SetFeatureLevel{Level: 2})
			w.Apply(&buildsv1.NodeStopping{Name: "n1", StoreId: "s", BootId: "b"})
		}, want: "no second node"},
		"the second node is drained": {nodes: []uint32{1, 1}, replicas: 2, prepare: func(w *schedulertest.World) {
			w.Apply(&buildsv1.SetFeatureLevel{Level: 2})
			w.Apply(&buildsv1.DrainNode{Name: "n1", Drained: true})
		}, want: ""},
	} {
		t.Run(title, func(t *testing.T) {
			w := schedulertest.NewWorld(t, c.nodes...)
			if c.prepare != nil {
				c.prepare(w)
			}
			w.Create("a")
			var last *buildsv1.Record
			w.Store.View().Queued(func(r *buildsv1.Record) bool { last = r; return true })
			got := waitingIn(w, c.replicas).Reason(last)
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func waitingIn(w *schedulertest.World, replicas int) *Waiting {
	return NewWaiting(w.Store.View(), w.Now, func(*imagebuilderv1.Source) string { return "copy" }, replicas)
}

// Test_Waiting_RetryAndSuccessor: the reasons that depend on the build itself.
func Test_Waiting_RetryAndSuccessor(t *testing.T) {
	w := schedulertest.NewWorld(t, 1)
	create := func(id string) {
		w.Apply(&buildsv1.CreateBuild{
			Id: id, Ref: "r:same", Requester: id, TimeoutNanos: int64(time.Hour), Force: true,
			Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "b"}}},
		})
	}
	create("0001")
	a := decideIn(w).assign
	w.Apply(&buildsv1.AssignAttempt{Assignments: a})
	if got := waitingIn(w, 0).Reason(w.Store.Build("0001")); got != "" {
		t.Errorf("a build that runs waits: %q", got)
	}
	w.Apply(&buildsv1.FinishAttempt{BuildId: "0001", Attempt: 1, Epoch: a[0].Epoch, Phase: builds.Failed, Blame: builds.BlameInfrastructure})
	if got := waitingIn(w, 0).Reason(w.Store.Build("0001")); !strings.Contains(got, "attempt 1 failed; the next one begins at 2023-11-14T22:13:21Z") {
		t.Errorf("a retry: %q", got)
	}
	w.Now = w.Now.Add(time.Minute)
	w.Apply(&buildsv1.AssignAttempt{Assignments: decideIn(w).assign})
	w.Apply(&buildsv1.StopBuild{BuildId: "0001", Reason: buildsv1.StopReason_STOP_REASON_OPERATOR})
	create("0002")
	if r := w.Store.Build("0002"); r != nil && r.Successor {
		if got := waitingIn(w, 0).Reason(r); got != "build 0001 of the same image, which is being stopped, has to end first" {
			t.Errorf("a successor: %q", got)
		}
	} else {
		t.Fatalf("no successor: %v", r)
	}
}

// Test_Waiting_FreshSuccessor checks the reason for a build that a forced request has created while
// another build of the image runs.
func Test_Waiting_FreshSuccessor(t *testing.T) {
	w := schedulertest.NewWorld(t, 1)
	w.Apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	create := func(id string) {
		w.Apply(&buildsv1.CreateBuild{Id: id, Ref: "r:same", Requester: id, TimeoutNanos: int64(time.Hour), Force: true, Fresh: true})
	}
	create("0001")
	w.Apply(&buildsv1.AssignAttempt{Assignments: decideIn(w).assign})
	create("0002")
	got := waitingIn(w, 0).Reason(w.Store.Build("0002"))
	if got != "build 0001 of the same image, which began before this forced request, has to end first" {
		t.Errorf("got %q", got)
	}
}
