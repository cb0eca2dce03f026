package builds_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Test_StopOverdue stops what has passed its deadline, and nothing else.
func Test_StopOverdue(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	queued, live := m.Create("r:1").Build.Id, m.Create("r:2").Build.Id
	epoch := m.Assign(live)
	later := m.Create("r:3", func(c *buildsv1.CreateBuild) { c.TimeoutNanos = int64(3 * time.Hour) }).Build.Id
	m.Now = m.Now.Add(time.Hour)
	all := &buildsv1.StopOverdue{BuildIds: []string{queued, "unknown", later, live}}
	if res := m.Must(all); res.Refused != 2 {
		t.Errorf("%d were refused, want the unknown one and the one that is not due", res.Refused)
	}
	m.WantPhase(queued, builds.Failed)
	if b := m.Build(queued); b.Blame != builds.BlameTimeout {
		t.Errorf("blame %s", b.Blame)
	}
	if r := m.Store.Build(live); r.StopReason != buildsv1.StopReason_STOP_REASON_DEADLINE || r.StopUnixNano != m.Now.UnixNano() {
		t.Errorf("the stop of the live build: %v", r)
	}
	m.WantPhase(later, builds.Queued)
	if res := m.Must(all); res.Refused != 4 {
		t.Errorf("%d were refused the second time, want all", res.Refused)
	}
	m.Finish(live, epoch, &buildsv1.FinishAttempt{Phase: builds.Cancelled})
	m.WantPhase(live, builds.Failed)
}

// Test_Reap_OneLimitForACommand checks that a command which ends many builds removes no more of the
// history than one that ends a single build.
func Test_Reap_OneLimitForACommand(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	set := builds.DefaultSettings()
	set.HistoryMinAgeNanos = 0
	m.Must(&buildsv1.PutSettings{Settings: set})
	for i := range 600 {
		id := m.Create(fmt.Sprint("r:", i)).Build.Id
		m.Stop(id, buildsv1.StopReason_STOP_REASON_OPERATOR, "")
	}
	var ids []string
	for i := range 3 {
		ids = append(ids, m.Create(fmt.Sprint("r:overdue", i)).Build.Id)
	}
	lower := builds.DefaultSettings()
	lower.HistoryMinAgeNanos, lower.HistoryTotal = 0, 10
	m.Must(&buildsv1.PutSettings{Settings: lower})
	if n := m.Store.View().Counts().History; n != 600-256 {
		t.Fatalf("the history holds %d builds", n)
	}
	m.Now = m.Now.Add(time.Hour)
	m.Must(&buildsv1.StopOverdue{BuildIds: ids})
	if n := m.Store.View().Counts().History; n != 600-256+3-256 {
		t.Errorf("after a command that ends three builds the history holds %d builds, want %d", n, 600-256+3-256)
	}
}
