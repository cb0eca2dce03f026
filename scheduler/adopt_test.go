package scheduler

import (
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// Test_Decide_AdoptsNoMoreThanACommitHolds: two nodes are lost together, each with more attempts than
// one decision assigns.
func Test_Decide_AdoptsNoMoreThanACommitHolds(t *testing.T) {
	const each = maxAssigned + 1
	w := schedulertest.NewWorld(t, each, each, each)
	w.Apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	r := rules{
		alive: func(n *buildsv1.Node) bool { return !n.Lost }, runtime: func(*imagebuilderv1.Source) string { return "copy" },
		adoptable: func(string) bool { return true }, replicas: 3,
	}
	for range 3 * each {
		w.Create("a")
	}
	for {
		d := decide(w.Store.View(), w.Now, r)
		if len(d.assign) == 0 {
			break
		}
		w.Assign(d.assign...)
	}
	var lost []*buildsv1.Node
	w.Store.View().Nodes(func(n *buildsv1.Node) bool {
		lost = append(lost, n)
		return len(lost) < 2
	})
	for _, n := range lost {
		if owned := w.Store.View().Owned(n.Name); owned != each {
			t.Fatalf("node %s has %d attempts, want %d", n.Name, owned, each)
		}
		w.Apply(&buildsv1.NodeLost{Name: n.Name, StoreId: n.StoreId, BootId: n.BootId})
	}
	if d := decide(w.Store.View(), w.Now, r); len(d.reassign) != maxAssigned {
		t.Errorf("a decision adopts %d attempts, want %d", len(d.reassign), maxAssigned)
	}
}
