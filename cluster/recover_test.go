package cluster_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/transport"
)

// Test_Damage_RemedyOfTheError damages the data directory of a voter and follows the error of the
// start, which advises to empty the directory. Then the leader is down for a while. No acknowledged
// value may be lost.
func Test_Damage_RemedyOfTheError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t)
		g.puts(1, 5)
		lead := g.leader().cfg.Name
		damaged, away := g.others(lead)[0], g.others(lead)[1]
		g.stop(damaged)
		dir := filepath.Join(g.dir, damaged)
		g.start(damaged)
		g.leader()
		g.stop(away)
		g.puts(100, 10) // acknowledged by the leader and by the node that is damaged next
		g.stop(damaged)
		if err := os.Truncate(filepath.Join(dir, "written"), 5); err != nil {
			t.Fatal(err)
		}
		n, err := cluster.New(cluster.Config{Name: damaged, DataDir: dir, StateMachine: &tally{}, Network: g.hub.NewNetwork(damaged, g.address(damaged)), SegmentBytes: 1 << 20})
		if err == nil {
			err = n.Open(t.Context())
		}
		if err == nil {
			t.Fatal("the damaged directory is accepted")
		}
		if !strings.Contains(err.Error(), "empty the directory and start the node") {
			t.Errorf("the error of the start: %v", err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		g.stop(lead)
		g.start(damaged)
		g.start(away)
		time.Sleep(10 * time.Second) // simulated
		g.start(lead)
		g.put(200)
		if got := g.leader().sm.values(); !slices.Contains(got, 109) {
			t.Errorf("the acknowledged values 100 to 109 are lost: the leader has %v", got)
		}
	})
}

// Test_Recover_TheOthersComeBack makes one node the only voter of a new cluster, because the others
// seem to be lost for good. Then these come back. The recovered node must keep every entry that it
// acknowledges afterwards, and no node of its cluster may continue without these entries.
func Test_Recover_TheOthersComeBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t)
		g.puts(1, 5)
		g.wait("n0 has all values", func() bool { return len(g.nodes["n0"].sm.values()) == 5 })
		for _, name := range g.names {
			g.stop(name)
		}
		if err := cluster.Recover(cluster.Config{
			Name: "n0", DataDir: filepath.Join(g.dir, "n0"), StateMachine: &tally{}, Network: transport.Nowhere(g.address("n0")), SegmentBytes: 1 << 20,
		}); err != nil {
			t.Fatal(err)
		}
		g.start("n0")
		g.puts(100, 10)
		g.stop("n0")
		others := []*simNode{g.start("n1"), g.start("n2")}
		time.Sleep(10 * time.Second) // simulated
		n0 := g.start("n0")
		time.Sleep(time.Minute) // simulated
		if got := n0.sm.values(); !slices.Contains(got, 109) {
			t.Errorf("the recovered node has lost the acknowledged values 100 to 109: it has %v", got)
		}
		for _, m := range others {
			if got := m.sm.values(); m.Status().ClusterID == n0.Status().ClusterID && !slices.Contains(got, 109) {
				t.Errorf("%s is in the cluster of the recovered node without the acknowledged values 100 to 109: it has %v and follows %q", m.cfg.Name, got, m.Status().LeaderName)
			}
		}
	})
}
