package schedulertest

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// NewBusyWorld returns a world of three nodes for benchmarks: with ended builds whose logs are
// kept, with builds that run on node n0, and with queued builds. 500 requesters share them. Ids,
// hashes and times are as random as in reality, because they take most of a packed record. The clock
// is two days after the last command.
func NewBusyWorld(t testing.TB, ended, live, queued int) *World {
	t.Helper()
	w := NewWorld(t, 20_000, 20_000, 20_000)
	rnd := rand.New(rand.NewPCG(1, 2))
	apply := func(cmd proto.Message) {
		w.Now = w.Now.Add(time.Duration(rnd.Int64N(int64(20 * time.Millisecond))))
		w.Apply(cmd)
	}
	hash := func(of string, n int) string { return fmt.Sprintf("%x", sha256.Sum256(fmt.Append(nil, of, n))) }
	apply(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	apply(&buildsv1.PutSettings{Settings: &buildsv1.Settings{Attempts: 3, UncountedAttempts: 10, HistoryTotal: 2_000_000, HistoryMinAgeNanos: 1}})
	for n := range ended + live + queued {
		at := w.Now.UnixMilli()
		id := fmt.Sprintf("%08x-%04x-7%03x-%04x-%012x", at>>16, at&0xffff, rnd.IntN(1<<12), 1<<15+rnd.IntN(1<<14), rnd.Int64N(1<<48))
		source := "registry.example.com/team/app@sha256:" + hash("source", n/10)
		apply(&buildsv1.CreateBuild{
			Id: id, Ref: "registry.example.com/workspace-images:" + hash("workspace", n), BaseRef: source,
			Requester: fmt.Sprintf("u%d", n%500), TimeoutNanos: int64(100_000 * time.Hour),
			Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: source}}},
		})
		if n >= ended+live {
			continue
		}
		apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
			BuildId: id, Attempt: 1, Owner: "n0", OwnerStoreId: "s", Epoch: 1, BuildVersion: w.Index, Runtime: "copy", Replicas: 2,
			Copies: []*imagebuilderv1.LogCopy{{Node: "n0", StoreId: "s"}, {Node: "n1", StoreId: "s"}},
		}}})
		switch {
		case n < ended && n%10 != 0:
			digest := "sha256:" + hash("digest", n)
			apply(&buildsv1.ReportPhase{BuildId: id, Attempt: 1, Epoch: 1, Phase: builds.Pushing, Digest: digest})
			apply(&buildsv1.FinishAttempt{
				BuildId: id, Attempt: 1, Epoch: 1, Phase: builds.Succeeded, Digest: digest,
				LogLength: rnd.Int64N(1 << 20), LogChecksum: fmt.Sprintf("xxh64:%016x", rnd.Uint64()),
			})
		case n < ended:
			apply(&buildsv1.FinishAttempt{BuildId: id, Attempt: 1, Epoch: 1, Phase: builds.Failed, Blame: builds.BlameUser, LogLength: 1000})
		}
	}
	w.Now = w.Now.Add(48 * time.Hour)
	return w
}
