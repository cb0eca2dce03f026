package owner

import (
	"context"
	"log/slog"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// fullDisk is a log store that cannot write until some time.
type fullDisk struct {
	silent
	until time.Time
}

func (d fullDisk) Fence(logs.Key, uint64) (int64, string, error) {
	if time.Now().Before(d.until) {
		return 0, "", syscall.ENOSPC
	}
	return 7, "sum", nil
}

// Test_Seal_WaitsForItsDisk: a node that cannot write its copy of a dead
// attempt's log does not close it as lost while that may pass, nor ever while
// another node holds the log.
func Test_Seal_WaitsForItsDisk(t *testing.T) {
	for _, c := range []struct {
		name    string
		full    time.Duration // how long the disk is full
		holders int           // nodes that hold the log and run, the sealer included
		after   time.Duration
		want    imagebuilderv1.LogState
	}{
		{"full for a while", 30 * time.Second, 1, 45 * time.Second, builds.LogSealed},
		{"full for too long, nobody else holds it", time.Hour, 1, 2 * time.Minute, builds.LogLost},
		{"full for long, another node holds it", time.Hour, 2, 30 * time.Minute, builds.LogSealing},
		{"in the end there is room", time.Hour, 2, 61 * time.Minute, builds.LogSealed},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t, 1, 1, 1)
				w.Apply(&buildsv1.SetFeatureLevel{Level: 2})
				raft := &schedulertest.OneNode{W: w}
				w.Ask("a")
				a := w.Assignment()
				a.Replicas, a.Copies = uint32(c.holders+1), []*imagebuilderv1.LogCopy{{Node: a.Owner, StoreId: "s"}}
				for _, n := range []string{"n0", "n1", "n2"} {
					if n != a.Owner && len(a.Copies) <= c.holders {
						a.Copies = append(a.Copies, &imagebuilderv1.LogCopy{Node: n, StoreId: "s"})
					}
				}
				w.Apply(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{a}})
				w.Apply(&buildsv1.NodeLost{Name: a.Owner, StoreId: "s", BootId: "b", Reason: "test"})
				log := func() *imagebuilderv1.AttemptLog { return w.Store.Build(a.BuildId).Build.Attempts[0].Log }
				owner := NewOwner(OwnerOptions{
					Node: log().Sealer.GetNode(), StoreID: "s", Store: w.Store, Raft: raft, Logs: fullDisk{until: time.Now().Add(c.full)}, Publisher: &slowTags{},
					Runtimes: map[string]workload.Runtime{"copy": raft}, Log: slog.New(slog.DiscardHandler), ReplaceAfter: time.Hour, RepairAfter: 100 * time.Hour,
					FenceTimeout: time.Minute,
				})
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- owner.Run(ctx) }()
				ctxutil.Sleep(ctx, c.after)
				synctest.Wait()
				if got := log(); got.State != c.want || got.State == builds.LogSealed && got.Length != 7 {
					t.Errorf("after %s the log is %v", c.after, got)
				}
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		})
	}
}
