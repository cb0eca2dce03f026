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
		id := fmt.Sprintf("%08x-0000-7000-8000-000000000000", n)
		w.Apply(&buildsv1.CreateBuild{
			Id: id, Ref: fmt.Sprintf("registry.example.com/workspace-images:%064x", n), BaseRef: fmt.Sprintf("registry.example.com/base-images:%064x", n/10),
			Requester: fmt.Sprintf("u%d", n%500), TimeoutNanos: int64(100_000 * time.Hour),
			Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: fmt.Sprintf("registry.example.com/team/app@sha256:%064x", n/10)}}},
		})
		if n >= ended+live {
			continue
		}
		w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
			BuildId: id, Attempt: 1, Owner: "n0", OwnerStoreId: "s", Epoch: 1, BuildVersion: w.Index, Runtime: "copy", Replicas: 2,
			Copies: []*imagebuilderv1.LogCopy{{Node: "n0", StoreId: "s"}, {Node: "n1", StoreId: "s"}},
		}}})
		switch {
		case n < ended && n%10 != 0:
			digest := fmt.Sprintf("sha256:%064x", n)
			w.Apply(&buildsv1.ReportPhase{BuildId: id, Attempt: 1, Epoch: 1, Phase: builds.Pushing, Digest: digest})
			w.Apply(&buildsv1.FinishAttempt{BuildId: id, Attempt: 1, Epoch: 1, Phase: builds.Succeeded, Digest: digest, LogLength: 1000, LogChecksum: fmt.Sprintf("%064x", n)})
		case n < ended:
			w.Apply(&buildsv1.FinishAttempt{BuildId: id, Attempt: 1, Epoch: 1, Phase: builds.Failed, Blame: builds.BlameUser, LogLength: 1000})
		}
	}
	w.Now = w.Now.Add(48 * time.Hour)
	return w
}
