package scheduler

import (
	"slices"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
	"github.com/image-builder-ha/image-builder/test/knownfault"
)

// flood is a number of queued builds that is greater than the number that one decision looks at.
const flood = 5000

// Test_KnownFault_AFloodStarvesOtherRequesters queues the builds of one requester, then one build of
// another requester. Most slots are free, and the first requester may use only a few of them.
func Test_KnownFault_AFloodStarvesOtherRequesters(t *testing.T) {
	knownfault.Run(t, "part 4: the queue of one requester starves the others", func(t knownfault.TB) {
		w := schedulertest.NewWorld(t, 100)
		set := builds.DefaultSettings()
		set.RunningPerRequester, set.QueueTotal = 10, 2*flood
		w.Apply(&buildsv1.PutSettings{Settings: set})
		for range flood {
			w.Create("flood")
		}
		w.Create("modest")
		if got := starts(w, decideIn(w)); !slices.Contains(got, "modest") {
			t.Errorf("%d builds start on 100 free slots, none of the second requester", len(got))
		}
	})
}

// Test_KnownFault_BuildsWithoutARuntimeStarveOthers queues builds whose runtime no node has, then one
// build that a node can run.
func Test_KnownFault_BuildsWithoutARuntimeStarveOthers(t *testing.T) {
	knownfault.Run(t, "part 4: builds that no node can run starve the others", func(t knownfault.TB) {
		w := schedulertest.NewWorld(t, 100)
		set := builds.DefaultSettings()
		set.QueueTotal = 2 * flood
		w.Apply(&buildsv1.PutSettings{Settings: set})
		for range flood {
			w.Create("dockerfiles")
		}
		w.Apply(&buildsv1.CreateBuild{
			Id: "9999-modest", Ref: "r:modest", Requester: "modest", TimeoutNanos: int64(time.Hour),
			Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "copied"}}},
		})
		d := decide(w.Store.View(), w.Now, rules{
			alive: func(*buildsv1.Node) bool { return true },
			runtime: func(s *imagebuilderv1.Source) string {
				if s.GetRef().GetRef() == "copied" {
					return "copy"
				}
				return "buildkit"
			},
		})
		if len(d.assign) != 1 {
			t.Errorf("%d builds start on 100 free slots, want the one that a node can run", len(d.assign))
		}
	})
}
