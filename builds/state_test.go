package builds_test

import (
	"bytes"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Test_Newest_IsTheSameOnAllNodes checks that once the newest build of a ref is removed, the build
// before it is the newest, even on a node that has not read a snapshot.
func Test_Newest_IsTheSameOnAllNodes(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	set := builds.DefaultSettings()
	set.HistoryMinAgeNanos, set.HistoryPerRequester = 0, 1
	m.Must(&buildsv1.PutSettings{Settings: set})
	first := m.Create("r:1").Build.Id
	m.Finish(first, m.Assign(first), buildstest.Failed(builds.BlameUser, "exit code 1")) // a success would be removed, too
	again := m.Create("r:1", buildstest.By("bob"), func(c *buildsv1.CreateBuild) { c.Force = true }).Build.Id
	m.Succeed(again)
	m.Create("r:10")
	if got := m.Store.View().Newest("r:1").GetBuild().GetId(); got != again {
		t.Errorf("the newest is %q, not %q", got, again)
	}
	m.Succeed(m.Create("r:2", buildstest.By("bob")).Build.Id)
	if m.Store.Build(again) != nil {
		t.Fatal("the history still holds the build")
	}
	restored := builds.NewStore()
	if err := restored.Restore(bytes.NewReader(buildstest.Dump(t, m.Store))); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]*builds.Store{"here": m.Store, "from a snapshot": restored} {
		if got := s.View().Newest("r:1").GetBuild().GetId(); got != first {
			t.Errorf("%s the newest is %q, not %q", name, got, first)
		}
		if r := s.View().Newest("r"); r != nil {
			t.Errorf("%s: %q is of another ref", name, r.Build.Ref)
		}
	}
}
