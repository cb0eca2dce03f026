package builds_test

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const cachedUbuntu = "docker.io/library/ubuntu:22.04"

// cacheMachine returns a machine at the feature level of refreshes, with one cached reference.
func cacheMachine(t *testing.T) *buildstest.Machine {
	t.Helper()
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: 3})
	m.Must(&buildsv1.PutCachedRef{Ref: &imagebuilderv1.CachedRef{Ref: cachedUbuntu, Interval: durationpb.New(time.Hour)}})
	return m
}

func Test_Cache_AResultAndWhatKeepsIt(t *testing.T) {
	m := cacheMachine(t)
	if r := m.Cached(cachedUbuntu); builds.DueAt(r) != m.Now.UnixNano() {
		t.Fatalf("a new reference is due at %v, want now", r.DueAt.AsTime())
	}
	m.RecordRefresh(cachedUbuntu, m.AssignRefresh(cachedUbuntu, "n1"), "sha256:a", "")
	r := m.Cached(cachedUbuntu)
	next := time.Unix(0, builds.DueAt(r))
	if r.Digest != "sha256:a" || r.RefreshingBy != "" || !r.Anonymous || r.SizeBytes != 7 || !next.After(m.Now) || next.Sub(m.Now) > time.Hour {
		t.Fatalf("after a result: %v", r)
	}
	// Added again, with another interval: the rest of the entry stays.
	m.Must(&buildsv1.PutCachedRef{Ref: &imagebuilderv1.CachedRef{Ref: cachedUbuntu, Interval: durationpb.New(time.Minute)}})
	if r = m.Cached(cachedUbuntu); r.Digest != "sha256:a" || time.Unix(0, builds.DueAt(r)).Sub(m.Now) > time.Minute {
		t.Fatalf("added again: %v", r)
	}
	// A failure keeps the digest and its age, records the error, and makes the reference due soon.
	refreshed := r.RefreshedAt.AsTime()
	m.Now = m.Now.Add(time.Minute)
	m.RecordRefresh(cachedUbuntu, m.AssignRefresh(cachedUbuntu, "n1"), "", "no answer")
	m.RecordRefresh(cachedUbuntu, m.AssignRefresh(cachedUbuntu, "n1"), "", "no answer at all")
	r = m.Cached(cachedUbuntu)
	if r.Digest != "sha256:a" || !r.RefreshedAt.AsTime().Equal(refreshed) || r.LastError != "no answer at all" || r.Failures != 2 || time.Unix(0, builds.DueAt(r)).Sub(m.Now) > 8*time.Second {
		t.Fatalf("after failures: %v", r)
	}
	m.RecordRefresh(cachedUbuntu, m.AssignRefresh(cachedUbuntu, "n1"), "sha256:b", "")
	if r = m.Cached(cachedUbuntu); r.Digest != "sha256:b" || r.LastError != "" || r.Failures != 0 {
		t.Fatalf("after the recovery: %v", r)
	}
}

// Test_Cache_ATurnCountsOnce checks that the result of a turn that has ended is refused, and that a
// turn ends with the process of its node.
func Test_Cache_ATurnCountsOnce(t *testing.T) {
	for name, end := range map[string]func(*buildstest.Machine, uint64){
		"its result came":         func(m *buildstest.Machine, turn uint64) { m.RecordRefresh(cachedUbuntu, turn, "sha256:a", "") },
		"a refresh was requested": func(m *buildstest.Machine, _ uint64) { m.Must(&buildsv1.RequestRefreshes{}) },
		"the node was lost": func(m *buildstest.Machine, _ uint64) {
			m.Must(&buildsv1.NodeLost{Name: "n1", StoreId: "s1", BootId: "boot-1"})
		},
		"the node started anew": func(m *buildstest.Machine, _ uint64) {
			m.Must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "boot-2"})
		},
		"the node was forgotten": func(m *buildstest.Machine, _ uint64) { m.Must(&buildsv1.ForgetNode{Name: "n1", StoreId: "s1"}) },
		"it was given to another": func(m *buildstest.Machine, _ uint64) {
			m.Must(&buildsv1.NodeStarted{Name: "n2", StoreId: "s2", BootId: "b"})
			m.AssignRefresh(cachedUbuntu, "n2")
		},
		"the reference was removed and added": func(m *buildstest.Machine, _ uint64) {
			m.Must(&buildsv1.DeleteCachedRef{Ref: cachedUbuntu})
			m.Must(&buildsv1.PutCachedRef{Ref: &imagebuilderv1.CachedRef{Ref: cachedUbuntu}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := cacheMachine(t)
			former := m.Cached(cachedUbuntu)
			turn := m.AssignRefresh(cachedUbuntu, "n1")
			end(m, turn)
			before := m.Cached(cachedUbuntu)
			if res := m.RecordRefresh(cachedUbuntu, turn, "sha256:late", ""); res.Refused != 1 || m.Cached(cachedUbuntu) != before {
				t.Errorf("a late result was taken: %+v, %v", res, m.Cached(cachedUbuntu))
			}
			// An assignment that was decided before is refused too.
			res := m.Must(&buildsv1.AssignRefreshes{Assignments: []*buildsv1.AssignRefreshes_Assignment{{Ref: cachedUbuntu, Owner: "n1", Turn: former.Turn, DueUnixNano: builds.DueAt(former)}}})
			if res.Refused != 1 && name != "the reference was removed and added" {
				t.Errorf("a stale assignment was taken: %+v", res)
			}
		})
	}
}

func Test_Cache_SeededOnce(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: 3})
	m.Must(&buildsv1.SeedCache{IntervalNanos: int64(time.Hour)}) // no references: nothing is seeded yet
	m.Must(&buildsv1.SeedCache{Refs: []string{cachedUbuntu, "docker.io/library/a:1"}, IntervalNanos: int64(2 * time.Hour)})
	m.Must(&buildsv1.DeleteCachedRef{Ref: cachedUbuntu})
	m.Must(&buildsv1.SeedCache{Refs: []string{cachedUbuntu}, IntervalNanos: int64(time.Hour)})
	if m.Cached(cachedUbuntu) != nil || m.Cached("docker.io/library/a:1") == nil {
		t.Error("the removed reference came back, or the seeded one is gone")
	}
	interval := func() (d time.Duration) {
		m.Store.Read(func(st *builds.State) { d = st.CacheInterval(st.CachedRef("docker.io/library/a:1")) })
		return d
	}
	if got := interval(); got != time.Hour {
		t.Errorf("the default interval is %s, want that of the first start", got)
	}
	m.Must(&buildsv1.SetCacheInterval{IntervalNanos: int64(5 * time.Minute)})
	if got := interval(); got != 5*time.Minute {
		t.Errorf("the default interval is %s after it was set", got)
	}
	if res := m.Apply(&buildsv1.SetCacheInterval{Ref: cachedUbuntu, IntervalNanos: 1}); res.Err == nil {
		t.Error("the interval of a reference that is not cached was set")
	}
}

// Test_Cache_OldVersionsAgree checks that below level 3 a reference is stored as version 0.2.0
// stores it, so that nodes of both versions have the same state.
func Test_Cache_OldVersionsAgree(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: 2})
	m.Must(&buildsv1.PutCachedRef{Ref: &imagebuilderv1.CachedRef{Ref: "ubuntu", Interval: durationpb.New(time.Hour)}})
	if r := m.Cached("ubuntu"); r == nil || r.DueAt != nil || r.Interval.AsDuration() != time.Hour {
		t.Errorf("got %v", r)
	}
}

func Test_Cache_SurvivesASnapshot(t *testing.T) {
	m := cacheMachine(t)
	m.Must(&buildsv1.SeedCache{Refs: []string{"docker.io/library/a:1"}, IntervalNanos: int64(time.Hour)})
	m.RecordRefresh(cachedUbuntu, m.AssignRefresh(cachedUbuntu, "n1"), "sha256:a", "")
	m.AssignRefresh("docker.io/library/a:1", "n1")
	var buf bytes.Buffer
	snap, err := m.Store.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snap.WriteTo(&buf); err != nil {
		t.Fatal(err)
	}
	changed := m.Store.CachedChanged()
	if err := m.Store.Restore(&buf); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	default:
		t.Error("the restore of the cache was not signalled")
	}
	var seeded bool
	m.Store.Read(func(st *builds.State) { seeded = st.CacheConfig().GetSeeded() })
	if r := m.Cached(cachedUbuntu); r.GetDigest() != "sha256:a" || m.Cached("docker.io/library/a:1").GetRefreshingBy() != "n1" || !seeded {
		t.Errorf("after the restore: %v, seeded %v", r, seeded)
	}
}
