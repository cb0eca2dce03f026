package cluster_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
)

// Test_LastContact_OfAStuckLeader lets a write of the leader hang. The others elect another leader,
// which considers the node lost. So the node must report that it hears no leader, although Raft
// considers it the leader until the write ends. Nobody can replace an only voter.
func Test_LastContact_OfAStuckLeader(t *testing.T) {
	for _, nodes := range []int{3, 1} {
		synctest.Test(t, func(t *testing.T) {
			g := newSimGroup(t, nodes)
			for _, name := range g.names {
				g.start(name, func(c *cluster.Config) { c.SlowDisk = time.Second })
			}
			lead := g.leader()
			g.put(1)
			// Only the mark of the write is set: Raft itself does not hang. So the node reports this
			// only while it is the leader.
			lead.SetWriteStart(time.Now())
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
			lead.SetWriteStart(time.Time{})
			time.Sleep(10 * time.Second) // simulated
			if c := g.leader().Status().LastContact; c != 0 {
				t.Errorf("a leader whose disk writes has heard a leader %s ago", c)
			}
		})
	}
}
