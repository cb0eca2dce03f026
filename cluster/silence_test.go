package cluster_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
)

// Test_Silence_OneSlowWriteOfAnOnlyVoter lets one write of the only voter take longer than
// Config.SlowDisk. Once the write has ended, a further node must get the state.
func Test_Silence_OneSlowWriteOfAnOnlyVoter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newSimGroup(t, 2)
		n0 := g.start("n0", func(c *cluster.Config) { c.Expect = 1 })
		g.puts(1, 5)
		n0.SetWriteStart(time.Now())
		time.Sleep(5 * time.Second) // simulated
		n0.SetWriteStart(time.Time{})
		g.puts(10, 5)
		time.Sleep(10 * time.Second) // simulated
		if err := n0.Trouble(); err != nil || !n0.Leads() {
			t.Fatalf("n0 leads: %v, health problem: %v", n0.Leads(), err)
		}
		n1 := g.start("n1", func(c *cluster.Config) { c.Expect = 0 })
		time.Sleep(time.Minute) // simulated
		if n := len(n1.sm.values()); n != 10 {
			t.Errorf("after a minute the new node has %d of 10 values", n)
		}
	})
}
