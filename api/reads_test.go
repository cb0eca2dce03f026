package api_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/api"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// busyRaft commits a change whenever it is asked how fresh the state is.
type busyRaft struct {
	*localRaft
	change func()
	lags   uint64 // its counter moves later than the state
}

func (b *busyRaft) Freshness() (uint64, bool, time.Duration) {
	index, known, stale := b.localRaft.Freshness()
	if b.change != nil {
		b.change()
	}
	return index - b.lags, known, stale
}

// Test_Reads_TellTheirIndex: what an answer shows is of the index that it
// tells, or of an older one: who asks another node for that index sees nothing
// older than before.
func Test_Reads_TellTheirIndex(t *testing.T) {
	busy := &busyRaft{}
	a := newAPIWith(t, func(o *api.ServiceOptions) {
		busy.localRaft = o.Raft.(*localRaft)
		o.Raft = busy
	})
	a.Create("r:0")
	busy.change, busy.lags = func() { a.Create(fmt.Sprint("r:", a.Index)) }, 1
	list, err := a.native.ListBuilds(t.Context(), &imagebuilderv1.ListBuildsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range list.Builds {
		if b.Version > list.Read.Index {
			t.Errorf("a list of index %d shows a build of index %d", list.Read.Index, b.Version)
		}
	}
	busy.change = nil
	res, err := a.native.BuildStatus(t.Context(), &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: list.Builds[0].Id}})
	if err != nil || res.Build.Version > res.Read.Index {
		t.Errorf("a status of index %d shows index %d: %v", res.GetRead().GetIndex(), res.GetBuild().GetVersion(), err)
	}
}

// Test_WatchBuilds_BreaksWithinAnEvent: one command may change and remove many
// builds. A watch that breaks among them misses none when it is resumed.
func Test_WatchBuilds_BreaksWithinAnEvent(t *testing.T) {
	a := newAPI(t)
	want := map[string]bool{}
	for i := range 3 {
		id := a.Create(fmt.Sprintf("r:%d", i)).Build.Id
		a.Succeed(id)
		want[id] = true
	}
	before := a.Index
	set := builds.DefaultSettings()
	set.HistoryMinAgeNanos, set.HistoryMaxAgeNanos = 0, 1
	a.Now = a.Now.Add(1000)
	a.Must(&buildsv1.PutSettings{Settings: set})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for after := before; len(want) > 0; {
		stream, err := a.native.WatchBuilds(ctx, &imagebuilderv1.WatchBuildsRequest{AfterIndex: after})
		if err != nil {
			t.Fatal(err)
		}
		for {
			m, err := stream.Recv()
			if err != nil {
				t.Fatalf("resumed after %d, of %d: never told that %v are gone: %v", after, before, want, err)
			}
			if delete(want, m.GetRemoved()); m.Index > after || len(want) == 0 {
				after = m.Index // and it breaks
				break
			}
		}
	}
}
