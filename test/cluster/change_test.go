//go:build faults

package cluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Rolling_Restart stops and starts all nodes, one after the other, while clients build
// (`make soak`: twice). No call fails.
func Test_Rolling_Restart(t *testing.T) {
	c, refs := harness.StartClusterWithImages(t, 3, 50, nil)
	l := harness.StartCallers(t, c, refs, testkit.InSoak(16, 8), 20)
	for range testkit.InSoak(2, 1) {
		for _, n := range c.Nodes {
			n.Stop()
			n.Run()
			harness.AwaitMembers(t, c, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 })
		}
	}
	l.End()
}

// Test_Grow_And_Shrink grows a cluster of three nodes to five voters and to seven members, and
// shrinks it to three again, under load.
func Test_Grow_And_Shrink(t *testing.T) {
	c, refs := harness.StartClusterWithImages(t, 3, 50, nil)
	c.Override(harness.Config{"cluster": map[string]any{"voters": 5}})
	for _, n := range c.Nodes { // with the new number of voters
		n.Stop()
		n.Run()
	}
	l := harness.StartCallers(t, c, refs, 8, 10)
	for range 2 {
		c.Add().Run()
	}
	harness.AwaitMembers(t, c, "five nodes vote", func(r *imagebuilderv1.MembersResponse) bool { return harness.Voters(r) == 5 && len(r.Members) == 5 })
	for range 2 {
		c.Add().Run()
	}
	harness.AwaitMembers(t, c, "seven nodes are members, five vote", func(r *imagebuilderv1.MembersResponse) bool { return harness.Voters(r) == 5 && len(r.Members) == 7 })
	for _, n := range c.Nodes[3:] {
		n.Stop()
		removed := func() bool {
			_, err := c.Running()[0].Operator().RemoveNode(t.Context(), &imagebuilderv1.RemoveNodeRequest{Node: n.Name})
			return err == nil
		}
		testkit.Eventually(t, 30*time.Second, n.Name+" is removed", removed)
	}
	harness.AwaitMembers(t, c, "three nodes are left, all vote", func(r *imagebuilderv1.MembersResponse) bool { return harness.Voters(r) == 3 && len(r.Members) == 3 })
	l.End()
}

// Test_Follower_CatchesUpBySnapshot stops a node until the Raft log no longer holds the entries
// that the node misses.
func Test_Follower_CatchesUpBySnapshot(t *testing.T) {
	c, refs := harness.StartClusterWithImages(t, 3, 50, harness.Config{"raft": map[string]any{"snapshotThreshold": 50, "snapshotInterval": "200ms", "trailingLogs": 10, "segmentBytes": 64 << 10}, "log": map[string]any{"level": "debug"}})
	away := c.Others(c.Leader())[0]
	away.Kill()
	l := harness.StartCallers(t, c, refs, 8, 50)
	testkit.Eventually(t, time.Minute, "200 builds are done", func() bool { return l.Builds.Load() >= 200 })
	l.End()
	away.Run()
	testkit.Eventually(t, 30*time.Second, "the node got a snapshot", func() bool { return strings.Contains(away.Log(), "Installed remote snapshot") })
	harness.AwaitSameBuilds(t, c)
}

// Test_Wipe_DuringElection kills the leader and wipes the disk of another voter at the same time.
func Test_Wipe_DuringElection(t *testing.T) {
	c, refs := harness.StartClusterWithImages(t, 5, 50, harness.Config{"cluster": map[string]any{"voters": 5}})
	harness.AwaitMembers(t, c, "five nodes vote", func(r *imagebuilderv1.MembersResponse) bool { return harness.Voters(r) == 5 })
	l := harness.StartCallers(t, c, refs, 8, 10)
	testkit.Eventually(t, time.Minute, "builds go through", func() bool { return l.Builds.Load() > 10 })
	lead := c.Leader()
	wiped := c.Others(lead)[0]
	lead.Kill9()
	wiped.Kill()
	lead.AwaitExit()
	if err := os.RemoveAll(filepath.Join(wiped.Dir, "data")); err != nil {
		t.Fatal(err)
	}
	wiped.Run()
	lead.Run()
	harness.AwaitMembers(t, c, "five nodes vote again, the former store is gone", func(r *imagebuilderv1.MembersResponse) bool {
		return harness.Voters(r) == 5 && len(r.Members) == 5 && r.FailureTolerance == 2
	})
	l.End()
	harness.AwaitSameBuilds(t, c)
}

// Test_Leader_DiskFails fills and slows the disk of the leader. The leader gives up leadership, and
// builds continue.
func Test_Leader_DiskFails(t *testing.T) {
	for name, fault := range map[string]map[string]any{
		"full": {"disk_full": true},
		"slow": {"disk_delay": int64(4 * time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			c, refs := harness.StartClusterWithImages(t, 3, 50, nil)
			l := harness.StartCallers(t, c, refs, 8, 10)
			testkit.Eventually(t, time.Minute, "builds go through", func() bool { return l.Builds.Load() > 10 })
			lead := c.Leader()
			lead.Hurt(fault)
			begin := time.Now()
			other := c.Others(lead)[0]
			testkit.Eventually(t, time.Minute, "another node leads", func() bool {
				res, err := other.Members(t.Context(), true)
				return err == nil && res.Leader != "" && res.Leader != lead.Name
			})
			t.Logf("another leader after %s", time.Since(begin).Round(time.Millisecond))
			done := l.Builds.Load()
			testkit.Eventually(t, time.Minute, "builds go on", func() bool { return l.Builds.Load() > done+20 })
			if lead.Alive() {
				lead.Hurt(map[string]any{})
			} else {
				lead.Run()
			}
			l.End()
			harness.AwaitMembers(t, c, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 })
			harness.AwaitSameBuilds(t, c)
		})
	}
}
