package builds_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// withID sets the id of Create, as a leader does by its clock.
func withID(n int) func(*buildsv1.CreateBuild) {
	return func(c *buildsv1.CreateBuild) { c.Id = fmt.Sprintf("%08d-0000-7000-8000-000000000000", n) }
}

// restored returns a store with the state of another, from a snapshot.
func restored(t *testing.T, s *builds.Store) *builds.Store {
	t.Helper()
	out := builds.NewStore()
	if err := out.Restore(bytes.NewReader(buildstest.Dump(t, s))); err != nil {
		t.Fatal(err)
	}
	return out
}

// Test_Newest_FollowsTheLog creates a build under a leader whose clock is behind that of the leader
// before, so that its id is smaller. From level 5 on it is the newest build of the ref.
func Test_Newest_FollowsTheLog(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: 4})
	first := m.Create("r:1", withID(9)).Build.Id
	m.Succeed(first)
	second := m.Create("r:1", withID(5), forced).Build.Id
	m.Succeed(second)
	check := func(when, want string) {
		t.Helper()
		for name, s := range map[string]*builds.Store{"here": m.Store, "from a snapshot": restored(t, m.Store)} {
			if got := s.View().Newest("r:1").GetBuild().GetId(); got != want {
				t.Errorf("%s, %s the newest is %q, not %q", when, name, got, want)
			}
		}
	}
	check("at level 4, as version 0.3.0", first)
	level4 := restored(t, m.Store)
	m.Must(&buildsv1.SetFeatureLevel{Level: 5})
	check("at level 5", second)
	third := m.Create("r:1", withID(1), forced).Build.Id
	check("once there is a third", third)
	m.Store = level4
	m.Must(&buildsv1.SetFeatureLevel{Level: 5})
	check("after the restore of a snapshot of level 4", second)
}

// Test_Create_AttachesToTheNewestOfTheLog: the image that a request looks for is that of the build
// that was created last. The last build failed here, so an earlier success does not count.
func Test_Create_AttachesToTheNewestOfTheLog(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	m.Succeed(m.Create("r:1", withID(9)).Build.Id)
	failed := m.Create("r:1", withID(5), forced).Build.Id
	m.Fail(failed, builds.BlameUser)
	if res := m.Create("r:1", withID(12)); res.Attached {
		t.Errorf("the request joined build %s, but the newest build %s has failed", res.Build.Id, failed)
	}
}

// Test_Order_IsThatOfTheLog creates builds whose ids are not in the order of the log.
func Test_Order_IsThatOfTheLog(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	set := builds.DefaultSettings()
	set.HistoryMinAgeNanos, set.HistoryPerRequester = 0, 1
	m.Must(&buildsv1.PutSettings{Settings: set})
	var ids []string
	for i, n := range []int{5, 9, 3, 7, 1} {
		ids = append(ids, m.Create(fmt.Sprintf("r:%d", i), withID(n)).Build.Id)
	}
	newestFirst := slices.Clone(ids)
	slices.Reverse(newestFirst)
	for name, s := range map[string]*builds.Store{"here": m.Store, "from a snapshot": restored(t, m.Store)} {
		view := s.View()
		var queued []string
		view.Queued(func(r *buildsv1.Record) bool { queued = append(queued, r.Build.Id); return true })
		if d := cmp.Diff(ids, queued); d != "" {
			t.Errorf("%s, queued builds (-want +got):\n%s", name, d)
		}
		if d := cmp.Diff(newestFirst, descend(view, "")); d != "" {
			t.Errorf("%s, all builds, newest first (-want +got):\n%s", name, d)
		}
		for i, id := range newestFirst {
			if d := cmp.Diff(newestFirst[i+1:], descend(view, id), cmp.Transformer("len", func(s []string) string { return fmt.Sprint(s) })); d != "" {
				t.Errorf("%s, builds before %s (-want +got):\n%s", name, id, d)
			}
		}
	}
	// A page ends at a build that retention removes before the next page is read.
	m.Succeed(ids[1])
	m.Succeed(ids[0])
	if m.Store.Build(ids[1]) != nil {
		t.Fatal("the history still holds the build")
	}
	if got, want := descend(m.Store.View(), ids[1]), []string{ids[4], ids[3], ids[2], ids[0]}; !slices.Equal(got, want) {
		t.Errorf("builds with smaller ids than the removed one: %v, want %v", got, want)
	}
}

func descend(s *builds.State, before string) (ids []string) {
	s.Descend(before, func(r *buildsv1.Record) bool { ids = append(ids, r.Build.Id); return true })
	return ids
}
