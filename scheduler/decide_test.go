package scheduler

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func decideIn(w *world) decision {
	return decide(w.store.View(), w.now, rules{
		alive:   func(n *buildsv1.Node) bool { return n.Name != "dead" },
		runtime: func(*imagebuilderv1.Source) string { return "copy" },
	})
}

// starts answers whose builds a decision starts, in order.
func starts(w *world, d decision) (who []string) {
	for _, a := range d.assign {
		who = append(who, w.store.Build(a.BuildId).Build.Requester)
	}
	return who
}

func Test_Decide_FairAmongRequesters(t *testing.T) {
	w := newWorld(t, 4)
	for range 5 {
		w.ask("greedy")
	}
	w.ask("modest")
	w.ask("late")
	if diff := cmp.Diff([]string{"greedy", "modest", "late", "greedy"}, starts(w, decideIn(w))); diff != "" {
		t.Error(diff)
	}
}

func Test_Decide_SpreadsOverNodesWithinCapacity(t *testing.T) {
	w := newWorld(t, 2, 3)
	for range 9 {
		w.ask("a")
	}
	d := decideIn(w)
	got := map[string]int{}
	for _, a := range d.assign {
		got[a.Owner]++
	}
	if diff := cmp.Diff(map[string]int{"n0": 2, "n1": 3}, got); diff != "" {
		t.Error(diff)
	}
	w.apply(&buildsv1.AssignAttempt{Assignments: d.assign})
	if d := decideIn(w); len(d.assign) != 0 {
		t.Errorf("%d more attempts were started on full nodes", len(d.assign))
	}
}

func Test_Decide_Limits(t *testing.T) {
	w := newWorld(t, 100)
	set := builds.DefaultSettings()
	set.RunningTotal, set.RunningPerRequester = 5, 3
	w.apply(&buildsv1.PutSettings{Settings: set})
	for range 6 {
		w.ask("a")
		w.ask("b")
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
	w := newWorld(t)
	w.apply(&buildsv1.NodeStarted{Name: "dead", StoreId: "s", BootId: "b", Capacity: 9, Runtimes: []string{"copy"}})
	w.apply(&buildsv1.NodeStarted{Name: "other", StoreId: "s", BootId: "b", Capacity: 9, Runtimes: []string{"buildkit"}})
	w.ask("a")
	if d := decideIn(w); len(d.assign) != 0 {
		t.Errorf("started on %s", d.assign[0].Owner)
	}
}

func Test_Decide_WaitsForBackOffAndDeadline(t *testing.T) {
	w := newWorld(t, 1)
	w.ask("a")
	d := decideIn(w)
	w.apply(&buildsv1.AssignAttempt{Assignments: d.assign})
	a := d.assign[0]
	w.apply(&buildsv1.FinishAttempt{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Failed, Blame: builds.BlameInfrastructure})
	if d = decideIn(w); len(d.assign) != 0 || !d.wake.Equal(w.now.Add(time.Second)) {
		t.Fatalf("starts %d, wakes in %s; want none, 1s", len(d.assign), d.wake.Sub(w.now))
	}
	w.now = d.wake
	if d = decideIn(w); len(d.assign) != 1 || d.assign[0].Attempt != 2 || d.assign[0].Epoch <= a.Epoch {
		t.Fatalf("after the back-off: %v", d.assign)
	}
	w.now = w.now.Add(2 * time.Hour)
	if d = decideIn(w); len(d.overdue) != 1 || len(d.assign) != 0 {
		t.Errorf("past the deadline: overdue %v, starts %d", d.overdue, len(d.assign))
	}
}

// Test_Decide_DeadlinesBehindTheWindow has a long queue, at whose end is what
// has to end first.
func Test_Decide_DeadlinesBehindTheWindow(t *testing.T) {
	w := newWorld(t)
	for range window {
		w.ask("patient")
	}
	w.askFor("soon", time.Minute)
	w.askFor("sooner", time.Second)
	if d := decideIn(w); len(d.overdue) != 0 || !d.wake.Equal(w.now.Add(time.Second)) {
		t.Fatalf("overdue %v, wakes in %s, want 1s", d.overdue, d.wake.Sub(w.now))
	}
	w.now = w.now.Add(time.Minute)
	d := decideIn(w)
	var who []string
	for _, id := range d.overdue {
		who = append(who, w.store.Build(id).Build.Requester)
		w.apply(&buildsv1.StopBuild{BuildId: id, Reason: buildsv1.StopReason_STOP_REASON_DEADLINE})
	}
	if diff := cmp.Diff([]string{"sooner", "soon"}, who); diff != "" {
		t.Error(diff)
	}
	if d := decideIn(w); len(d.overdue) != 0 || d.wake.Sub(w.now) != 59*time.Minute {
		t.Errorf("afterwards: overdue %v, wakes in %s", d.overdue, d.wake.Sub(w.now))
	}
	w.now = w.now.Add(2 * time.Hour)
	if d := decideIn(w); len(d.overdue) != window {
		t.Errorf("%d are overdue, want %d", len(d.overdue), window)
	}
}

func Test_Decide_Reaps(t *testing.T) {
	w := newWorld(t, 1)
	id := w.ask("a")
	_ = id
	d := decideIn(w)
	w.apply(&buildsv1.AssignAttempt{Assignments: d.assign})
	w.apply(&buildsv1.FinishAttempt{BuildId: d.assign[0].BuildId, Attempt: 1, Epoch: 1, Phase: builds.Failed, Blame: builds.BlameUser})
	if d := decideIn(w); d.reap || d.wake.Sub(w.now) < 7*24*time.Hour {
		t.Errorf("reaps at once: %v, wakes in %s", d.reap, d.wake.Sub(w.now))
	}
	w.now = w.now.Add(7*24*time.Hour + time.Second)
	if d := decideIn(w); !d.reap {
		t.Error("does not reap what is older than its maximum age")
	}
}

func Benchmark_Decide(b *testing.B) {
	w := &world{t: &testing.T{}, store: builds.NewStore(), now: time.Unix(1_700_000_000, 0)}
	w.apply(&buildsv1.NodeStarted{Name: "n", StoreId: "s", BootId: "b", Capacity: 32, Runtimes: []string{"copy"}})
	for i := range 10000 {
		w.ask(fmt.Sprint("user", i%100))
	}
	b.ReportAllocs()
	for b.Loop() {
		decideIn(w)
	}
}
