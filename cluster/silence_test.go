package cluster_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/disktest"
)

// Test_Silence_OneSlowWriteOfAnOnlyVoter lets one write of the only voter take longer than
// Config.SlowDisk. Once the write has ended, a further node must get the state.
func Test_Silence_OneSlowWriteOfAnOnlyVoter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newSimGroup(t, 2)
		disk := disktest.NewDisk()
		n0 := g.start("n0", func(c *cluster.Config) { c.Expect = 1 }, onDisk(disk))
		g.puts(1, 5)
		works := disk.Hang()
		go func() { _, _ = n0.Propose(t.Context(), value(9)) }()
		time.Sleep(5 * time.Second) // simulated
		works()
		g.puts(10, 5)
		time.Sleep(10 * time.Second) // simulated
		if err := n0.Trouble(); err != nil || !n0.Leads() {
			t.Fatalf("n0 leads: %v, health problem: %v", n0.Leads(), err)
		}
		n1 := g.start("n1", func(c *cluster.Config) { c.Expect = 0 })
		time.Sleep(time.Minute) // simulated
		if n := len(n1.sm.values()); n != 11 {
			t.Errorf("after a minute the new node has %d of 11 values", n)
		}
	})
}
