package owner

import (
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// fullUntil are logs on a disk that is full until a moment.
type fullUntil struct {
	nullLogs
	until  time.Time
	fences *atomic.Int32
}

func (d fullUntil) Fence(logs.Key, uint64) (int64, string, error) {
	d.fences.Add(1)
	if time.Now().Before(d.until) {
		return 0, "", syscall.ENOSPC
	}
	return 7, "sum", nil
}

// Test_Seal_WaitsForItsDisk: a node that cannot write its copy of a dead attempt's log does not
// close the log as lost before FenceTimeout, and never while another node holds it. It does not
// retry more often than every 10 seconds in the long run.
func Test_Seal_WaitsForItsDisk(t *testing.T) {
	for _, c := range []struct {
		name    string
		full    time.Duration // how long the disk is full
		holders int           // running nodes that hold the log, the sealer included
		after   time.Duration
		want    imagebuilderv1.LogState
	}{
		{"full for a while", 30 * time.Second, 1, 45 * time.Second, builds.LogSealed},
		{"full for too long, no other node holds it", time.Hour, 1, 2 * time.Minute, builds.LogLost},
		{"full for long, another node holds it", time.Hour, 2, 30 * time.Minute, builds.LogSealing},
		{"in the end there is room", time.Hour, 2, 61 * time.Minute, builds.LogSealed},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := schedulertest.NewWorld(t, 1, 1, 1)
				w.Apply(&buildsv1.SetFeatureLevel{Level: 2})
				w.Create("a")
				a := w.Assignment()
				a.Replicas, a.Copies = uint32(c.holders+1), []*imagebuilderv1.LogCopy{{Node: a.Owner, StoreId: "s"}}
				for _, n := range []string{"n0", "n1", "n2"} {
					if n != a.Owner && len(a.Copies) <= c.holders {
						a.Copies = append(a.Copies, &imagebuilderv1.LogCopy{Node: n, StoreId: "s"})
					}
				}
				w.Assign(a)
				w.Apply(&buildsv1.NodeLost{Name: a.Owner, StoreId: "s", BootId: "b", Reason: "test"})
				log := func() *imagebuilderv1.AttemptLog { return w.Store.Build(a.BuildId).Build.Attempts[0].Log }
				disk := fullUntil{until: time.Now().Add(c.full), fences: new(atomic.Int32)}
				stop := run(t, w, Options{Node: log().Sealer.GetNode(), Logs: disk, FenceTimeout: time.Minute})
				time.Sleep(c.after)
				synctest.Wait()
				if got := log(); got.State != c.want || got.State == builds.LogSealed && got.Length != 7 {
					t.Errorf("after %s the log is %v", c.after, got)
				}
				if n, limit := disk.fences.Load(), int32(min(c.after, c.full)/maxFencePause)+10; n > limit {
					t.Errorf("%d attempts to fence, want at most %d", n, limit)
				}
				stop()
			})
		})
	}
}
