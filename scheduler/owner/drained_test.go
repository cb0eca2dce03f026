package owner

import (
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// Test_KeepCopy_DrainedNodesAreTheLastResort: the second copy of a live log is lost. A drained node
// gets the copy only if no other node can hold it, and loses it once another one can.
func Test_KeepCopy_DrainedNodesAreTheLastResort(t *testing.T) {
	w := schedulertest.NewWorld(t, 1, 1, 1)
	w.Apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	w.Create("a")
	a := w.Assignment("n1", "n2")
	a.Copies, a.Replicas = []*imagebuilderv1.LogCopy{{Node: "n0", StoreId: "s"}, {Node: "n1", StoreId: "s"}}, 2
	w.Assign(a)
	w.Apply(&buildsv1.NodeLost{Name: "n1", StoreId: "s", BootId: "b"})
	w.Apply(&buildsv1.DrainNode{Name: "n2", Drained: true})
	to := blockedTransport{make(chan struct{})}
	close(to.release)
	k := newCopyKeeper(t, w, a.BuildId, &schedulertest.Raft{W: w}, to, func(error) {})
	k.feed.Set([]logs.Copy{{Node: "n1", StoreID: "s"}})
	holds := func(node string) bool {
		for _, c := range builds.CopiesOf(builds.LastAttempt(w.Store.Build(a.BuildId).Build)) {
			if c.Node == node {
				return true
			}
		}
		return false
	}
	steps := func(what string, done func() bool) {
		t.Helper()
		for begin := time.Now(); !done(); {
			if time.Since(begin) > 20*time.Second {
				t.Fatalf("%s: the copies are %v", what, builds.CopiesOf(builds.LastAttempt(w.Store.Build(a.BuildId).Build)))
			}
			status, changed := k.feed.Status()
			k.check(t.Context(), status)
			select {
			case <-changed:
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
	steps("the drained node gets a copy", func() bool { return holds("n2") && !holds("n1") })
	view := w.Store.View()
	if k.at.owner.mustReplace(view, logs.CopyStatus{Copy: logs.Copy{Node: "n2", StoreID: "s"}}) {
		t.Error("the only second copy must be replaced, because its node is drained")
	}
	w.Apply(&buildsv1.NodeStarted{Name: "n1", StoreId: "s", BootId: "c", Capacity: 1, Runtimes: []string{"copy"}})
	steps("another node takes the copy", func() bool { return holds("n1") && !holds("n2") })
}
