package scheduler

import (
	"fmt"
	"testing"

	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_Decide_AvoidsWhereItFailed: a further attempt goes to the failed one's
// node only if there is no other.
func Test_Decide_AvoidsWhereItFailed(t *testing.T) {
	for _, others := range []uint32{2, 0} {
		w := schedulertest.NewWorld(t, 2, others)
		w.Ask("a")
		a := decideIn(w).assign[0]
		w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
		w.Apply(&buildsv1.FinishAttempt{BuildId: a.BuildId, Attempt: 1, Epoch: a.Epoch, Phase: builds.Failed, Blame: builds.BlameInfrastructure, Uncounted: true})
		next := decideIn(w).assign
		if len(next) != 1 || (next[0].Owner == a.Owner) != (others == 0) {
			t.Errorf("with room for %d elsewhere: attempt 1 on %s, then %v", others, a.Owner, next)
		}
	}
}

// Test_Decide_SkipsDrainedNodes: neither an attempt nor a copy of its log goes
// to a node that an operator drained.
func Test_Decide_SkipsDrainedNodes(t *testing.T) {
	w := schedulertest.NewWorld(t, 10, 10, 10)
	w.Apply(&buildsv1.SetFeatureLevel{Level: 2})
	w.Apply(&buildsv1.DrainNode{Name: "n1", Drained: true})
	for range 12 {
		w.Ask("a")
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

// Test_Place_LocalityAndLoad: builds of one source go to the same node while it
// is at most one ahead, builds of different sources are spread, and when a node
// goes, only its sources move.
func Test_Place_LocalityAndLoad(t *testing.T) {
	slots := func(names ...string) (out []*slot) {
		for _, n := range names {
			out = append(out, &slot{node: &buildsv1.Node{Name: n, Runtimes: []string{"copy"}}, free: 10})
		}
		return out
	}
	where := map[string]string{}
	on := map[string]int{}
	for i := range 90 {
		src := fmt.Sprint("source ", i)
		n := place(slots("a", "b", "c"), "copy", src, "").node.Name
		where[src] = n
		on[n]++
		if again := place(slots("c", "a", "b"), "copy", src, "").node.Name; again != n {
			t.Fatalf("%s goes to %s and to %s", src, n, again)
		}
	}
	for n, count := range on {
		if count < 15 {
			t.Errorf("%d of 90 sources go to node %s", count, n)
		}
	}
	for src, n := range where {
		if now := place(slots("a", "b"), "copy", src, "").node.Name; n != "c" && now != n {
			t.Errorf("%s moves from %s to %s, although only node c has gone", src, n, now)
		}
	}
	load := slots("a", "b", "c")
	for range 30 {
		sl := place(load, "copy", "source 0", "")
		sl.used++
		sl.free--
	}
	for _, sl := range load {
		if sl.used != 10 {
			t.Errorf("node %s runs %d of 30 attempts", sl.node.Name, sl.used)
		}
	}
}
