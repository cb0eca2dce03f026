package scheduler

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// flood is a number of queued builds that no decision may read one by one.
const flood = 5000

// Test_Decide_AFloodStarvesNobody queues the builds of one requester, then one build of another
// requester. Most places are free, and the first requester may use only a few of them.
func Test_Decide_AFloodStarvesNobody(t *testing.T) {
	w := schedulertest.NewWorld(t, 100)
	set := builds.DefaultSettings()
	set.RunningPerRequester, set.QueueTotal = 10, 2*flood
	w.Apply(&buildsv1.PutSettings{Settings: set})
	for range flood {
		w.Create("flood")
	}
	w.Create("modest")
	got := starts(w, decideIn(w))
	if len(got) != 11 || !slices.Contains(got[:2], "modest") {
		t.Errorf("builds of %v start, want ten of the flood and, as one of the first two, the modest one", got)
	}
}

// Test_Decide_BuildsWithoutARuntimeStarveNobody queues builds whose runtime no node has, then one
// build that a node can run.
func Test_Decide_BuildsWithoutARuntimeStarveNobody(t *testing.T) {
	for _, requesters := range []int{1, flood} {
		w := schedulertest.NewWorld(t, 100)
		set := builds.DefaultSettings()
		set.QueueTotal = 2 * flood
		w.Apply(&buildsv1.PutSettings{Settings: set})
		for i := range flood {
			w.Apply(&buildsv1.CreateBuild{
				Id: fmt.Sprintf("%04d", i), Ref: fmt.Sprintf("r:%d", i), Requester: fmt.Sprint("dockerfiles", i%requesters), TimeoutNanos: int64(time.Hour),
				Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{}}},
			})
		}
		w.Create("modest")
		d := decide(w.Store.View(), w.Now, rules{
			alive: func(*buildsv1.Node) bool { return true },
			runtime: func(s *imagebuilderv1.Source) string {
				if s.GetRef() != nil {
					return "copy"
				}
				return "buildkit"
			},
		})
		if got := starts(w, d); !slices.Equal(got, []string{"modest"}) {
			t.Errorf("with builds of %d requesters without a runtime: builds of %v start", requesters, got)
		}
	}
}
