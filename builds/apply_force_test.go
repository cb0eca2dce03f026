package builds_test

import (
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

func forced(c *buildsv1.CreateBuild) { c.Force, c.Fresh = true, true }

// repeatedForced is a forced request of Gitpod's API, whose clients repeat it without a request id.
func repeatedForced(c *buildsv1.CreateBuild) { c.Force = true }

// Test_Force_GetsABuildThatBeginsLater checks that a forced request never joins a build that has
// begun. It waits for the end of that build, and further forced requests wait together with it.
// Other requests still join the build that runs.
func Test_Force_GetsABuildThatBeginsLater(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	first := m.Create("r:1").Build.Id
	epoch := m.Assign(first)
	next := m.Create("r:1", forced, buildstest.By("bob"))
	if next.Attached || next.Build.Id == first {
		t.Fatal("a forced request joined a build that had begun")
	}
	if third := m.Create("r:1", forced, buildstest.By("carol")); third.Build.Id != next.Build.Id || !third.Attached {
		t.Errorf("a second forced request got %s, want to join %s", third.Build.Id, next.Build.Id)
	}
	if other := m.Create("r:1", buildstest.By("dave")); other.Build.Id != first || !other.Attached {
		t.Errorf("a request without force got %s, want to join %s", other.Build.Id, first)
	}
	if other := m.Create("r:1", repeatedForced, buildstest.By("frank")); other.Build.Id != first || !other.Attached {
		t.Errorf("a forced request that is not fresh got %s, want to join %s", other.Build.Id, first)
	}
	b := m.Build(next.Build.Id)
	if res := m.Must(&buildsv1.AssignAttempt{Assignments: []*buildsv1.AssignAttempt_Assignment{{
		BuildId: b.Id, Attempt: 1, Owner: "n1", OwnerStoreId: "s1", Epoch: 1, BuildVersion: b.Version,
	}}}); res.Refused != 1 {
		t.Fatal("two builds of the image run at the same time")
	}
	// The first build is queued again. It has begun nevertheless.
	m.Finish(first, epoch, buildstest.Failed(builds.BlameInfrastructure, "the node broke"))
	m.WantPhase(first, builds.Queued)
	if res := m.Create("r:1", forced, buildstest.By("erin")); res.Build.Id != next.Build.Id {
		t.Errorf("between two attempts: a forced request got %s, want to join %s", res.Build.Id, next.Build.Id)
	}
	m.Succeed(first)
	m.Succeed(next.Build.Id)
}

// Test_Force_JoinsABuildThatHasNotBegun checks the queued builds that a forced request joins: one
// with the same source, or a forced one.
func Test_Force_JoinsABuildThatHasNotBegun(t *testing.T) {
	copies := func(c *buildsv1.CreateBuild) { c.Source = imageSource("base@sha256:1") }
	for name, c := range map[string]struct {
		queued []func(*buildsv1.CreateBuild)
		joins  bool
	}{
		"the same source":                {nil, true},
		"a forced build":                 {[]func(*buildsv1.CreateBuild){forced}, true},
		"a copy of an image that exists": {[]func(*buildsv1.CreateBuild){copies}, false},
	} {
		m := buildstest.NewMachine(t)
		m.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
		queued := m.Create("r:1", c.queued...)
		if res := m.Create("r:1", forced, buildstest.By("bob")); (res.Build.Id == queued.Build.Id) != c.joins || res.Attached != c.joins {
			t.Errorf("%s: the forced request joins it: %v", name, res.Attached)
		}
	}
}

// Test_Force_BelowTheLevel checks that a forced request joins every active build while older
// versions are in the cluster.
func Test_Force_BelowTheLevel(t *testing.T) {
	m := buildstest.NewMachine(t)
	m.Must(&buildsv1.SetFeatureLevel{Level: 4})
	first := m.Create("r:1").Build.Id
	m.Assign(first)
	if res := m.Create("r:1", forced); res.Build.Id != first || !res.Attached {
		t.Errorf("got build %s, want to join %s", res.Build.Id, first)
	}
}
