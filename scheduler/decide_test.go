package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func decideIn(w *schedulertest.World) decision {
	return decide(w.Store.View(), w.Now, rules{
		alive:   func(n *buildsv1.Node) bool { return n.Name != "dead" },
		runtime: func(*imagebuilderv1.Source) string { return "copy" },
	})
}

// starts answers whose builds a decision starts, in order.
func starts(w *schedulertest.World, d decision) (who []string) {
	for _, a := range d.assign {
		who = append(who, w.Store.Build(a.BuildId).Build.Requester)
	}
	return who
}

func Test_Decide_FairAmongRequesters(t *testing.T) {
	w := schedulertest.NewWorld(t, 4)
	for range 5 {
		w.Ask("greedy")
	}
	w.Ask("modest")
	w.Ask("late")
	if diff := cmp.Diff([]string{"greedy", "modest", "late", "greedy"}, starts(w, decideIn(w))); diff != "" {
		t.Error(diff)
	}
}

func Test_Decide_SpreadsOverNodesWithinCapacity(t *testing.T) {
	w := schedulertest.NewWorld(t, 2, 3)
	for range 9 {
		w.Ask("a")
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
		w.Ask("a")
		w.Ask("b")
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
	w.Ask("a")
	if d := decideIn(w); len(d.assign) != 0 {
		t.Errorf("started on %s", d.assign[0].Owner)
	}
}

func Test_Decide_WaitsForBackOffAndDeadline(t *testing.T) {
	w := schedulertest.NewWorld(t, 1)
	w.Ask("a")
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

// Test_Decide_DeadlinesBehindTheWindow has a long queue, at whose end is what
// has to end first.
func Test_Decide_DeadlinesBehindTheWindow(t *testing.T) {
	w := schedulertest.NewWorld(t)
	for range window {
		w.Ask("patient")
	}
	w.AskFor("soon", time.Minute)
	w.AskFor("sooner", time.Second)
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
	if d := decideIn(w); len(d.overdue) != window {
		t.Errorf("%d are overdue, want %d", len(d.overdue), window)
	}
}

func Test_Decide_Reaps(t *testing.T) {
	w := schedulertest.NewWorld(t, 1)
	id := w.Ask("a")
	_ = id
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

func Benchmark_Decide(b *testing.B) {
	w := &schedulertest.World{T: &testing.T{}, Store: builds.NewStore(), Now: time.Unix(1_700_000_000, 0)}
	w.Apply(&buildsv1.NodeStarted{Name: "n", StoreId: "s", BootId: "b", Capacity: 32, Runtimes: []string{"copy"}})
	for i := range 10000 {
		w.Ask(fmt.Sprint("user", i%100))
	}
	b.ReportAllocs()
	for b.Loop() {
		decideIn(w)
	}
}
