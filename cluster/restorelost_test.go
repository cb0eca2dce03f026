package cluster_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/clustertest"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_Restore_TheOthersHaveRemovedTheSnapshot starts a node that must apply a restore whose
// snapshot no member has any more. Its log goes on from there, so that the leader sends it no
// snapshot of Raft. The node continues with the state of the leader, even after a restart.
func Test_Restore_TheOthersHaveRemovedTheSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t)
		g.puts(1, 5)
		backup := savedState(t, g.leader().Node)
		g.put(10)
		late := g.others(g.leader().cfg.Name)[0]
		g.stop(late)
		time.Sleep(10 * time.Second) // simulated
		if err := g.leader().RestoreSnapshot(t.Context(), backup); err != nil {
			t.Fatal(err)
		}
		g.puts(20, 30)
		for _, name := range g.others(late) {
			if err := os.RemoveAll(filepath.Join(g.dir, name, "restore")); err != nil {
				t.Fatal(err)
			}
		}
		want := append(values(1, 5), values(20, 30)...)
		for i := range uint64(2) {
			m := g.start(late)
			want = append(want, 100+i)
			if got := g.allEqual(100 + i); !slices.Equal(got, want) {
				t.Errorf("start %d: the state is %v, want %v", i, got, want)
			}
			if lead := g.leader(); m.Applied() != lead.Applied() {
				t.Errorf("start %d: %s is at index %d, the leader at %d", i, late, m.Applied(), lead.Applied())
			}
			select {
			case err := <-m.Fatal():
				t.Errorf("start %d: %v", i, err)
			default:
			}
			g.stop(late)
		}
		g.start(late, func(c *cluster.Config) { c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = 20, 5, time.Second })
		g.puts(200, 30)
		time.Sleep(10 * time.Second) // simulated: the node takes a snapshot of its state
		g.stop(late)
		g.start(late)
		if got, want := g.allEqual(300), append(append(want, values(200, 30)...), 300); !slices.Equal(got, want) {
			t.Errorf("after a snapshot the state is %v, want %v", got, want)
		}
	})
}

// Test_Restore_AWaitingNodeGivesUpLeadership makes a node the leader that waits for the snapshot of
// a restore, which no member has. Another node must lead soon, because the waiting node cannot.
func Test_Restore_AWaitingNodeGivesUpLeadership(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		noState := func(c *cluster.Config) {
			c.Network.(*clustertest.Network).Missing = []string{clusterv1.Restore_GetState_FullMethodName}
		}
		g := threeSimulated(t, noState)
		g.puts(1, 5)
		lead := g.leader()
		backup := savedState(t, lead.Node)
		late := g.others(lead.cfg.Name)[0]
		g.stop(late)
		time.Sleep(10 * time.Second) // simulated
		if err := lead.RestoreSnapshot(t.Context(), backup); err != nil {
			t.Fatal(err)
		}
		for _, name := range g.others(late) {
			if err := os.RemoveAll(filepath.Join(g.dir, name, "restore")); err != nil {
				t.Fatal(err)
			}
		}
		g.start(late, noState)
		time.Sleep(5 * time.Second) // simulated
		if err := lead.TransferLeadership(t.Context(), late); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		g.put(10)
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("there is a leader after %s", took)
		}
	})
}
