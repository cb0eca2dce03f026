package api_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func Test_Watch_SnapshotThenChangesThenResume(t *testing.T) {
	a := newAPI(t)
	first := a.Create("r:1").Build.Id
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := a.native.WatchBuilds(ctx, &imagebuilderv1.WatchBuildsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func() *imagebuilderv1.WatchBuildsResponse {
		t.Helper()
		ev, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return ev
	}
	if ev := next(); ev.GetBuild().GetId() != first {
		t.Fatalf("snapshot: %v", ev)
	}
	end := next()
	if !end.GetSnapshotEnd() {
		t.Fatalf("after the snapshot: %v", end)
	}
	second := a.Create("r:2").Build.Id
	if ev := next(); ev.GetBuild().GetId() != second || ev.Index <= end.Index {
		t.Fatalf("change: %v", ev)
	}
	cancel()
	third := a.Create("r:3").Build.Id
	stream, err = a.native.WatchBuilds(t.Context(), &imagebuilderv1.WatchBuildsRequest{AfterIndex: end.Index})
	if err != nil {
		t.Fatal(err)
	}
	if got := []string{next().GetBuild().GetId(), next().GetBuild().GetId()}; got[0] != second || got[1] != third {
		t.Errorf("resumed: %v, want %s and %s", got, second, third)
	}
}

// Test_Watch_TellsWhatLeavesItsPhases checks that a watch sends a build once when it leaves the
// phases of the filter, even after the watch was resumed, and that the other fields of the filter
// stay in force.
func Test_Watch_TellsWhatLeavesItsPhases(t *testing.T) {
	a := newAPI(t)
	f := &imagebuilderv1.BuildFilter{Phases: []imagebuilderv1.Phase{builds.Queued, builds.Assigned}, Requester: "bob"}
	id := a.Create("r:1", buildstest.By("bob")).Build.Id
	begin := a.Index
	other := a.Create("r:2").Build.Id
	stream, err := a.native.WatchBuilds(t.Context(), &imagebuilderv1.WatchBuildsRequest{Filter: f})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the build and the end of the snapshot
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	a.Succeed(id)
	a.Succeed(other)
	last := a.Create("r:3", buildstest.By("bob")).Build.Id
	resumed, err := a.native.WatchBuilds(t.Context(), &imagebuilderv1.WatchBuildsRequest{Filter: f, AfterIndex: begin})
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]imagebuilderv1.ImageBuilder_WatchBuildsClient{"from the beginning": stream, "resumed": resumed} {
		outside := 0
		for {
			ev, err := s.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if ev.GetBuild().GetId() == last {
				break
			}
			if b := ev.GetBuild(); b.GetId() != id {
				t.Errorf("%s: sent %v", name, ev)
			} else if b.Phase > builds.Assigned {
				outside++
			}
		}
		if outside != 1 {
			t.Errorf("%s: the build that left the phases was sent %d times, want 1", name, outside)
		}
	}
}

// Test_WatchBuilds_BreaksWithinAnEvent checks a watch that breaks between the messages of one
// command, which removes several builds: it misses none of them when it is resumed.
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
				t.Fatalf("resumed after %d, of %d: no message says that %v are removed: %v", after, before, want, err)
			}
			if delete(want, m.GetRemoved()); m.Index > after || len(want) == 0 {
				after = m.Index // here the stream breaks
				break
			}
		}
	}
}
