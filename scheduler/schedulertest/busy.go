package schedulertest

import (
	"fmt"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// NewBusyWorld returns a world of three nodes for benchmarks: with ended builds whose logs are
// kept, with builds that run on node n0, and with queued builds. 500 requesters share them. The
// clock is two days after the last command.
func NewBusyWorld(t testing.TB, ended, live, queued int) *World {
	t.Helper()
	w := NewWorld(t, 20_000, 20_000, 20_000)
	w.Apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	w.Apply(&buildsv1.PutSettings{Settings: &buildsv1.Settings{Attempts: 3, UncountedAttempts: 10, HistoryTotal: 2_000_000, HistoryMinAgeNanos: 1}})
	for n := range ended + live + queued {
		id := fmt.Sprintf("%08d", n)
		w.Apply(&buildsv1.CreateBuild{
			Id: id, Ref: "r:" + id, Requester: fmt.Sprintf("u%d", n%500), TimeoutNanos: int64(100_000 * time.Hour),
			Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: "b"}}},
		})
		if n >= ended+live {
			continue
		}
		w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
			BuildId: id, Attempt: 1, Owner: "n0", OwnerStoreId: "s", Epoch: 1, BuildVersion: w.Index, Runtime: "copy", Replicas: 2,
			Copies: []*imagebuilderv1.LogCopy{{Node: "n0", StoreId: "s"}, {Node: "n1", StoreId: "s"}},
		}}})
		if n < ended {
			w.Apply(&buildsv1.FinishAttempt{BuildId: id, Attempt: 1, Epoch: 1, Phase: builds.Failed, Blame: builds.BlameUser, LogLength: 1000})
		}
	}
	w.Now = w.Now.Add(48 * time.Hour)
	return w
}
