package builds_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const cachedUbuntu = "docker.io/library/ubuntu:22.04"

// cacheMachine is a cluster all of whose nodes know how references are
// refreshed, with one reference.
func cacheMachine(t *testing.T) *buildstest.Machine {
	t.Helper()
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: 3})
	m.Must(&buildsv1.PutCachedRef{Ref: &imagebuilderv1.CachedRef{Ref: cachedUbuntu, Interval: durationpb.New(time.Hour)}})
	return m
}

func Test_CacheKey_IsTheNormalisedReference(t *testing.T) {
	for ref, want := range map[string]string{
		"ubuntu:22.04":                             cachedUbuntu,
		"docker.io/library/ubuntu:22.04":           cachedUbuntu,
		"index.docker.io/ubuntu:22.04":             cachedUbuntu,
		"ubuntu":                                   "docker.io/library/ubuntu:latest",
		"host:5000/a/b":                            "host:5000/a/b:latest",
		"ubuntu@sha256:" + strings.Repeat("a", 64): "",
		"a:1@sha256:" + strings.Repeat("a", 64):    "",
		"docker.io/UPPER/case":                     "",
		"":                                         "",
		"https://example.com/a":                    "",
	} {
		got, err := builds.CacheKey(ref)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", ref, got, err, want)
		}
	}
}

func Test_Cache_AResultAndWhatKeepsIt(t *testing.T) {
	m := cacheMachine(t)
	if r := m.Cached(cachedUbuntu); builds.DueAt(r) != m.Now.UnixNano() {
		t.Fatalf("a new reference is due at %v, want now", r.DueAt.AsTime())
	}
	m.Record(cachedUbuntu, m.Turn(cachedUbuntu, "n1"), "sha256:a", "")
	r := m.Cached(cachedUbuntu)
	next := time.Unix(0, builds.DueAt(r))
	if r.Digest != "sha256:a" || r.RefreshingBy != "" || !r.Anonymous || r.SizeBytes != 7 || !next.After(m.Now) || next.Sub(m.Now) > time.Hour {
		t.Fatalf("after a result: %v", r)
	}
	// Added again, under another interval: what is known stays.
	m.Must(&buildsv1.PutCachedRef{Ref: &imagebuilderv1.CachedRef{Ref: cachedUbuntu, Interval: durationpb.New(time.Minute)}})
	if r = m.Cached(cachedUbuntu); r.Digest != "sha256:a" || time.Unix(0, builds.DueAt(r)).Sub(m.Now) > time.Minute {
		t.Fatalf("added again: %v", r)
	}
	// A failure keeps the digest and its age, says why, and is tried again soon.
	refreshed := r.RefreshedAt.AsTime()
	m.Now = m.Now.Add(time.Minute)
	m.Record(cachedUbuntu, m.Turn(cachedUbuntu, "n1"), "", "no answer")
	m.Record(cachedUbuntu, m.Turn(cachedUbuntu, "n1"), "", "no answer at all")
	r = m.Cached(cachedUbuntu)
	if r.Digest != "sha256:a" || !r.RefreshedAt.AsTime().Equal(refreshed) || r.LastError != "no answer at all" || r.Failures != 2 || time.Unix(0, builds.DueAt(r)).Sub(m.Now) > 8*time.Second {
		t.Fatalf("after failures: %v", r)
	}
	m.Record(cachedUbuntu, m.Turn(cachedUbuntu, "n1"), "sha256:b", "")
	if r = m.Cached(cachedUbuntu); r.Digest != "sha256:b" || r.LastError != "" || r.Failures != 0 {
		t.Fatalf("after the recovery: %v", r)
	}
}

// Test_Cache_ATurnCountsOnce: results of turns that ended count for nothing,
// whoever sends them, and a turn ends with its node's process.
func Test_Cache_ATurnCountsOnce(t *testing.T) {
	for name, end := range map[string]func(*buildstest.Machine, uint64){
		"its result came":     func(m *buildstest.Machine, turn uint64) { m.Record(cachedUbuntu, turn, "sha256:a", "") },
		"a refresh was asked": func(m *buildstest.Machine, _ uint64) { m.Must(&buildsv1.RequestRefreshes{}) },
		"the node was lost": func(m *buildstest.Machine, _ uint64) {
			m.Must(&buildsv1.NodeLost{Name: "n1", StoreId: "s1", BootId: "boot-1"})
		},
		"the node started anew": func(m *buildstest.Machine, _ uint64) {
			m.Must(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: "boot-2"})
		},
		"the node was forgotten": func(m *buildstest.Machine, _ uint64) { m.Must(&buildsv1.ForgetNode{Name: "n1", StoreId: "s1"}) },
		"it was given to another": func(m *buildstest.Machine, _ uint64) {
			m.Must(&buildsv1.NodeStarted{Name: "n2", StoreId: "s2", BootId: "b"})
			m.Turn(cachedUbuntu, "n2")
		},
		"the reference was removed and added": func(m *buildstest.Machine, _ uint64) {
			m.Must(&buildsv1.DeleteCachedRef{Ref: cachedUbuntu})
			m.Must(&buildsv1.PutCachedRef{Ref: &imagebuilderv1.CachedRef{Ref: cachedUbuntu}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := cacheMachine(t)
			former := m.Cached(cachedUbuntu)
			turn := m.Turn(cachedUbuntu, "n1")
			end(m, turn)
			before := m.Cached(cachedUbuntu)
			if res := m.Record(cachedUbuntu, turn, "sha256:late", ""); res.Refused != 1 || m.Cached(cachedUbuntu) != before {
				t.Errorf("a late result was taken: %+v, %v", res, m.Cached(cachedUbuntu))
			}
			// So is an assignment that was decided before.
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
		t.Error("what was removed came back, or what was seeded did not stay")
	}
	interval := func() (d time.Duration) {
		m.Store.Read(func(st *builds.State) { d = st.CacheInterval(m.CachedIn(st, "docker.io/library/a:1")) })
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

// Test_Cache_OldVersionsAgree: below level 3 a reference is stored as version
// 0.2.0 stores it, so that nodes of both have one state.
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
	m.Record(cachedUbuntu, m.Turn(cachedUbuntu, "n1"), "sha256:a", "")
	m.Turn("docker.io/library/a:1", "n1")
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
		t.Error("nobody was told that the cache was replaced")
	}
	var seeded bool
	m.Store.Read(func(st *builds.State) { seeded = st.CacheConfig().GetSeeded() })
	if r := m.Cached(cachedUbuntu); r.GetDigest() != "sha256:a" || m.Cached("docker.io/library/a:1").GetRefreshingBy() != "n1" || !seeded {
		t.Errorf("after the restore: %v, seeded %v", r, seeded)
	}
}
