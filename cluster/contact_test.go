package cluster_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/clustertest"
	"github.com/image-builder-ha/image-builder/cluster/disktest"
)

// onDisk makes a node keep its log on a disk that a test can hang.
func onDisk(d *disktest.Disk) func(*cluster.Config) {
	return func(c *cluster.Config) {
		c.Storage = &cluster.Storage{Disk: d.Mount(), Snapshots: clustertest.NewSnapshots()}
	}
}

// Test_LastContact_OfAStuckLeader lets a write of the leader hang. The others elect another leader,
// which considers the node lost. So the node must report that it hears no leader, although Raft
// considers it the leader until the write ends. Nobody can replace an only voter.
func Test_LastContact_OfAStuckLeader(t *testing.T) {
	for _, nodes := range []int{3, 1} {
		synctest.Test(t, func(t *testing.T) {
			g, disks := newSimGroup(t, nodes), map[string]*disktest.Disk{}
			for _, name := range g.names {
				disks[name] = disktest.NewDisk()
				g.start(name, func(c *cluster.Config) { c.SlowDisk = time.Second }, onDisk(disks[name]))
			}
			lead := g.leader()
			g.put(1)
			works := disks[lead.cfg.Name].Hang()
			go func() { _, _ = lead.Propose(t.Context(), value(2)) }()
			var longest time.Duration
			for range 30 {
				time.Sleep(100 * time.Millisecond) // simulated
				if st := lead.Status(); st.Role == "Leader" {
					longest = max(longest, st.LastContact)
				}
			}
			if reports := longest > time.Second; reports != (nodes > 1) {
				t.Errorf("in a cluster of %d the stuck leader has heard a leader %s ago at most", nodes, longest)
			}
			works()
			time.Sleep(10 * time.Second) // simulated
			if c := g.leader().Status().LastContact; c != 0 {
				t.Errorf("a leader whose disk writes has heard a leader %s ago", c)
			}
		})
	}
}
