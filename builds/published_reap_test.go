package builds_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Test_Published_OfARequesterWithManyBuilds: the history of one requester is full, and its next build
// to remove is the last success of a ref of which another requester has an older success. The digest
// of the ref does not go back, and is the same after a restore.
func Test_Published_OfARequesterWithManyBuilds(t *testing.T) {
	for _, level := range []uint32{4, builds.FeatureLevel} {
		t.Run(fmt.Sprint("level ", level), func(t *testing.T) {
			m := buildstest.NewMachine(t)
			m.Must(&buildsv1.SetFeatureLevel{Level: level})
			set := builds.DefaultSettings()
			set.HistoryPerRequester, set.HistoryMinAgeNanos = 2, 1
			m.Must(&buildsv1.PutSettings{Settings: set})
			digests := func(ref string) (applied, restored string) {
				s := builds.NewStore()
				if err := s.Restore(bytes.NewReader(buildstest.Dump(t, m.Store))); err != nil {
					t.Fatal(err)
				}
				return m.Store.View().CommittedDigest(ref), s.View().CommittedDigest(ref)
			}
			n := 0
			succeed := func(who, ref string, tags ...string) {
				n++
				digest := fmt.Sprint("sha256:", n)
				id := m.Create(ref, buildstest.By(who), dockerfile("base/"+ref, tags...), func(c *buildsv1.CreateBuild) { c.Force = true }).Build.Id
				e := m.Assign(id)
				m.Report(id, e, builds.Pushing, digest)
				m.Finish(id, e, &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: digest})
				m.Now = m.Now.Add(time.Second)
			}
			last := map[string]string{}
			check := func(step string) {
				t.Helper()
				for _, ref := range []string{"r:1", "r:2", "t:1", "t:2"} {
					applied, restored := digests(ref)
					if applied != restored {
						t.Errorf("%s: %s must have %q, and after a restart %q", step, ref, applied, restored)
					}
					if level >= 5 && applied != "" && applied < last[ref] {
						t.Errorf("%s: the digest of %s goes back from %s to %s", step, ref, last[ref], applied)
					}
					last[ref] = max(last[ref], applied)
				}
			}
			succeed("a", "r:1", "t:1") // 1
			check("the first success")
			succeed("c", "r:2", "t:1", "t:2") // 2
			check("another build with the same tag")
			succeed("b", "r:1", "t:2") // 3
			check("a newer success")
			for i := range 4 {
				succeed("b", fmt.Sprint("other:", i)) // until 3 is removed
				check(fmt.Sprint("other build ", i))
			}
			if applied, _ := digests("r:1"); level >= 5 && applied != "" {
				t.Errorf("r:1 still has the digest %s: the test removes nothing", applied)
			}
		})
	}
}

// Test_History_AFailedBuildTakesNoSuccess: the next build of a requester to remove has failed, and
// another requester, who is within the limits, has the only success of its ref. Only the failed build
// is removed.
func Test_History_AFailedBuildTakesNoSuccess(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	set := builds.DefaultSettings()
	set.HistoryPerRequester, set.HistoryMinAgeNanos = 2, 1
	m.Must(&buildsv1.PutSettings{Settings: set})
	create := func(who, ref string) string {
		id := m.Create(ref, buildstest.By(who), dockerfile("base/"+ref), func(c *buildsv1.CreateBuild) { c.Force = true }).Build.Id
		m.Now = m.Now.Add(time.Second)
		return id
	}
	kept := create("a", "r:1")
	e := m.Assign(kept)
	m.Report(kept, e, builds.Pushing, "sha256:1")
	m.Finish(kept, e, &buildsv1.FinishAttempt{Phase: builds.Succeeded, Digest: "sha256:1"})
	var stopped []string
	for _, ref := range []string{"r:1", "r:2", "r:3"} {
		id := create("b", ref)
		m.Stop(id, byRequester, "b")
		stopped = append(stopped, id)
	}
	m.Now = m.Now.Add(time.Second)
	m.Must(&buildsv1.Reap{})
	if m.Store.Build(stopped[0]) != nil {
		t.Error("the oldest build of a requester with too many builds stays")
	}
	if m.Store.Build(kept) == nil || m.Store.View().Published("r:1") != "sha256:1" {
		t.Error("the success of another requester is removed")
	}
}
