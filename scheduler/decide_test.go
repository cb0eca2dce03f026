package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

func decideIn(w *schedulertest.World) decision {
	return decide(w.Store.View(), w.Now, rules{
		alive:   func(n *buildsv1.Node) bool { return n.Name != "dead" },
		runtime: func(*imagebuilderv1.Source) string { return "copy" },
	})
}

// starts returns the requesters of the builds that a decision starts, in order.
func starts(w *schedulertest.World, d decision) (requesters []string) {
	for _, a := range d.assign {
		requesters = append(requesters, w.Store.Build(a.BuildId).Build.Requester)
	}
	return requesters
}

func Test_Decide_FairAmongRequesters(t *testing.T) {
	w := schedulertest.NewWorld(t, 4)
	for range 5 {
		w.Create("greedy")
	}
	w.Create("modest")
	w.Create("late")
	if diff := cmp.Diff([]string{"greedy", "modest", "late", "greedy"}, starts(w, decideIn(w))); diff != "" {
		t.Error(diff)
	}
}

func Test_Decide_SpreadsOverNodesWithinCapacity(t *testing.T) {
	w := schedulertest.NewWorld(t, 2, 3)
	for range 9 {
		w.Create("a")
	}
	d := decideIn(w)
	got := map[string]int{}
	for _, a := range d.assign {
		got[a.Owner]++
	}
	if diff := cmp.Diff(map[string]int{"n0": 2, "n1": 3}, got); diff != "" {
		t.Error(diff)
	}
	w.Apply(&buildsv1.AssignAttempt{Assignments: d.assign})
	if d := decideIn(w); len(d.assign) != 0 {
		t.Errorf("%d more attempts were started on full nodes", len(d.assign))
	}
}

func Test_Decide_Limits(t *testing.T) {
	w := schedulertest.NewWorld(t, 100)
	set := builds.DefaultSettings()
	set.RunningTotal, set.RunningPerRequester = 5, 3
	w.Apply(&buildsv1.PutSettings{Settings: set})
	for range 6 {
		w.Create("a")
		w.Create("b")
	}
	d := decideIn(w)
	if len(d.assign) != 5 {
		t.Fatalf("%d start, want 5", len(d.assign))
	}
	count := map[string]int{}
	for _, who := range starts(w, d) {
		count[who]++
	}
	if count["a"] > 3 || count["b"] > 3 {
		t.Errorf("started %v, want at most 3 each", count)
	}
}

func Test_Decide_LeavesOutDeadNodesAndMissingRuntimes(t *testing.T) {
	w := schedulertest.NewWorld(t)
	w.Apply(&buildsv1.NodeStarted{Name: "dead", StoreId: "s", BootId: "b", Capacity: 9, Runtimes: []string{"copy"}})
	w.Apply(&buildsv1.NodeStarted{Name: "other", StoreId: "s", BootId: "b", Capacity: 9, Runtimes: []string{"buildkit"}})
	w.Create("a")
	if d := decideIn(w); len(d.assign) != 0 {
		t.Errorf("started on %s", d.assign[0].Owner)
	}
}

func Test_Decide_WaitsForBackOffAndDeadline(t *testing.T) {
	w := schedulertest.NewWorld(t, 1)
	w.Create("a")
	d := decideIn(w)
	w.Apply(&buildsv1.AssignAttempt{Assignments: d.assign})
	a := d.assign[0]
	w.Apply(&buildsv1.FinishAttempt{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Failed, Blame: builds.BlameInfrastructure})
	if d = decideIn(w); len(d.assign) != 0 || !d.wake.Equal(w.Now.Add(time.Second)) {
		t.Fatalf("starts %d, wakes in %s; want none, 1s", len(d.assign), d.wake.Sub(w.Now))
	}
	w.Now = d.wake
	if d = decideIn(w); len(d.assign) != 1 || d.assign[0].Attempt != 2 || d.assign[0].Epoch <= a.Epoch {
		t.Fatalf("after the back-off: %v", d.assign)
	}
	w.Now = w.Now.Add(2 * time.Hour)
	if d = decideIn(w); len(d.overdue) != 1 || len(d.assign) != 0 {
		t.Errorf("past the deadline: overdue %v, starts %d", d.overdue, len(d.assign))
	}
}

// Test_Decide_DeadlinesBehindTheWindow: deadlines count wherever a build is in the queue.
func Test_Decide_DeadlinesBehindTheWindow(t *testing.T) {
	w := schedulertest.NewWorld(t)
	for range 4096 {
		w.Create("patient")
	}
	w.CreateFor("soon", time.Minute)
	w.CreateFor("sooner", time.Second)
	if d := decideIn(w); len(d.overdue) != 0 || !d.wake.Equal(w.Now.Add(time.Second)) {
		t.Fatalf("overdue %v, wakes in %s, want 1s", d.overdue, d.wake.Sub(w.Now))
	}
	w.Now = w.Now.Add(time.Minute)
	d := decideIn(w)
	var who []string
	for _, id := range d.overdue {
		who = append(who, w.Store.Build(id).Build.Requester)
		w.Apply(&buildsv1.StopBuild{BuildId: id, Reason: buildsv1.StopReason_STOP_REASON_DEADLINE})
	}
	if diff := cmp.Diff([]string{"sooner", "soon"}, who); diff != "" {
		t.Error(diff)
	}
	if d := decideIn(w); len(d.overdue) != 0 || d.wake.Sub(w.Now) != 59*time.Minute {
		t.Errorf("afterwards: overdue %v, wakes in %s", d.overdue, d.wake.Sub(w.Now))
	}
	w.Now = w.Now.Add(2 * time.Hour)
	if d := decideIn(w); len(d.overdue) != maxOverdue {
		t.Errorf("%d are overdue, want %d", len(d.overdue), maxOverdue)
	}
}

func Test_Decide_Reaps(t *testing.T) {
	w := schedulertest.NewWorld(t, 1)
	w.Create("a")
	d := decideIn(w)
	w.Apply(&buildsv1.AssignAttempt{Assignments: d.assign})
	w.Apply(&buildsv1.FinishAttempt{BuildId: d.assign[0].BuildId, Attempt: 1, Epoch: 1, Phase: builds.Failed, Blame: builds.BlameUser})
	if d := decideIn(w); d.reap || d.wake.Sub(w.Now) < 7*24*time.Hour {
		t.Errorf("reaps at once: %v, wakes in %s", d.reap, d.wake.Sub(w.Now))
	}
	w.Now = w.Now.Add(7*24*time.Hour + time.Second)
	if d := decideIn(w); !d.reap {
		t.Error("does not reap what is older than its maximum age")
	}
}

// Test_Decide_AvoidsWhereItFailed: the next attempt gets the node of the failed one only if there
// is no other.
func Test_Decide_AvoidsWhereItFailed(t *testing.T) {
	for _, others := range []uint32{2, 0} {
		w := schedulertest.NewWorld(t, 2, others)
		w.Create("a")
		a := decideIn(w).assign[0]
		w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		w.Apply(&buildsv1.FinishAttempt{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Failed, Blame: builds.BlameInfrastructure, Uncounted: true})
		next := decideIn(w).assign
		if len(next) != 1 || (next[0].Owner == a.Owner) != (others == 0) {
			t.Errorf("with room for %d elsewhere: attempt 1 on %s, then %v", others, a.Owner, next)
		}
	}
}

// Test_Decide_SkipsDrainedNodes: a drained node gets neither attempts nor copies of logs.
func Test_Decide_SkipsDrainedNodes(t *testing.T) {
	w := schedulertest.NewWorld(t, 10, 10, 10)
	w.Apply(&buildsv1.SetFeatureLevel{Level: 2})
	w.Apply(&buildsv1.DrainNode{Name: "n1", Drained: true})
	for range 12 {
		w.Create("a")
	}
	d := decide(w.Store.View(), w.Now, rules{
		alive: func(*buildsv1.Node) bool { return true }, runtime: func(*imagebuilderv1.Source) string { return "copy" },
		adoptable: func(string) bool { return false }, replicas: 2,
	})
	if len(d.assign) != 12 {
		t.Errorf("%d of 12 builds start", len(d.assign))
	}
	for _, a := range d.assign {
		for _, c := range a.Copies {
			if a.Owner == "n1" || c.Node == "n1" {
				t.Errorf("owner %s, copies %v", a.Owner, a.Copies)
			}
		}
	}
}

func Benchmark_Decide(b *testing.B) {
	w := &schedulertest.World{T: &testing.T{}, Store: builds.NewStore(), Now: time.Unix(1_700_000_000, 0)}
	w.Apply(&buildsv1.NodeStarted{Name: "n", StoreId: "s", BootId: "b", Capacity: 32, Runtimes: []string{"copy"}})
	for i := range 10000 {
		w.Create(fmt.Sprint("user", i%100))
	}
	b.ReportAllocs()
	for b.Loop() {
		decideIn(w)
	}
}
