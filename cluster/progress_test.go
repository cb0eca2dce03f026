package cluster_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/clustertest"
	"github.com/image-builder-ha/image-builder/cluster/disktest"
)

// Test_Progress_OfAHangingDisk: a follower whose disk does not finish a write responds to pings, and
// reports the write until the disk works again.
func Test_Progress_OfAHangingDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disks := map[string]*disktest.Disk{}
		g := threeSimulated(t, func(c *cluster.Config) {
			disks[c.Name] = disktest.NewDisk()
			c.Storage = &cluster.Storage{Disk: disks[c.Name].Mount(), Snapshots: clustertest.NewSnapshots()}
		})
		lead := g.leader()
		var follower *simNode
		for name, n := range g.nodes {
			if n != lead && (follower == nil || name < follower.cfg.Name) {
				follower = n
			}
		}
		peer := func() cluster.Peer { return lead.Peer(follower.cfg.Name, follower.StoreID()) }
		works := disks[follower.cfg.Name].Hang()
		g.put(1)
		time.Sleep(5 * time.Second)
		if p := peer(); p.Silent > time.Second || p.Stall.For < 4*time.Second || !strings.Contains(p.Stall.String(), "a write of the replicated log") {
			t.Errorf("the leader sees silence for %s and %q", p.Silent, p.Stall)
		}
		works()
		time.Sleep(2 * time.Second)
		if p := peer(); p.Stall.For != 0 {
			t.Errorf("after the disk works again the leader sees %q", p.Stall)
		}
	})
}

// Test_Silenced: a node that hears the leader, but whose responses do not arrive there, knows that
// the leader calls it silent.
func Test_Silenced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t, inMemory)
		lead := g.leader()
		var follower *simNode
		for _, n := range g.nodes {
			if n != lead {
				follower = n
			}
		}
		time.Sleep(time.Second)
		if err := follower.Silenced(); err != nil {
			t.Errorf("without a fault: %v", err)
		}
		g.hub.Cut(follower.cfg.Name, lead.cfg.Name)
		time.Sleep(10 * time.Second)
		err := follower.Silenced()
		if err == nil {
			t.Error("the node does not know that the leader has no response of it")
		}
		g.hub.Heal()
		time.Sleep(5 * time.Second)
		if err := follower.Silenced(); err != nil {
			t.Errorf("after the fault: %v", err)
		}
	})
}
