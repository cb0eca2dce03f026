package builds_test

import (
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func Test_History_Bounds(t *testing.T) {
	m := buildstest.NewMachine(t)
	set := builds.DefaultSettings()
	set.HistoryTotal, set.HistoryPerRequester = 5, 3
	set.HistoryMinAgeNanos, set.HistoryMaxAgeNanos = int64(time.Minute), int64(time.Hour)
	m.Must(&buildsv1.PutSettings{Settings: set})
	end := func(ref, who string) string {
		id := m.Create(ref, buildstest.By(who)).Build.Id
		m.Succeed(id)
		return id
	}
	first := end("r:a0", "a")
	for _, ref := range []string{"r:a1", "r:a2", "r:a3"} {
		end(ref, "a")
	}
	if n := m.Counts().History; n != 4 {
		t.Fatalf("history holds %d before its minimum age, want all 4", n)
	}
	m.Now = m.Now.Add(2 * time.Minute)
	end("r:a4", "a")
	if n := m.Counts().History; n != 3 {
		t.Errorf("history of one requester holds %d, want 3", n)
	}
	if m.Store.Build(first) != nil {
		t.Error("the oldest was not the one to go")
	}
	for _, ref := range []string{"r:b1", "r:b2", "r:b3"} {
		end(ref, "b")
	}
	if n := m.Counts().History; n != 5 {
		t.Errorf("history holds %d, want 5", n)
	}
	m.Now = m.Now.Add(2 * time.Hour)
	m.Must(&buildsv1.Reap{})
	if n := m.Counts().History; n != 0 {
		t.Errorf("history holds %d after its maximum age, want 0", n)
	}
}

// Test_ExpireLogs_ByTheTimeOfTheCommand checks that logs stay for the minimum age of the history,
// whatever the clock of the leader is.
func Test_ExpireLogs_ByTheTimeOfTheCommand(t *testing.T) {
	for level, early := range map[uint32]imagebuilderv1.LogState{3: builds.LogExpired, 4: builds.LogSealed} {
		m := buildstest.NewMachine(t)
		m.Must(&buildsv1.SetFeatureLevel{Level: level})
		m.Must(&buildsv1.PutSettings{Settings: &buildsv1.Settings{Attempts: 1, HistoryMinAgeNanos: int64(time.Hour)}})
		id := m.Create("r:1").Build.Id
		m.Succeed(id)
		for at, want := range []imagebuilderv1.LogState{early, builds.LogExpired} {
			m.Now = m.Now.Add(time.Hour - 1 + time.Duration(at))
			m.Must(&buildsv1.ExpireLogs{BuildIds: []string{id}})
			if got := m.Build(id).Attempts[0].Log.State; got != want {
				t.Errorf("level %d, look %d: the log is %s, want %s", level, at, got, want)
			}
		}
	}
}
