package cluster_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/disktest"
)

// Test_Silence_AHangingCompaction makes the disk of the leader hang while Raft removes the front of
// the log. Raft's own goroutine waits for that removal. Another node must lead.
func Test_Silence_AHangingCompaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, disks := newSimGroup(t, 3), map[string]*disktest.Disk{}
		for _, name := range g.names {
			disks[name] = disktest.NewDisk()
			g.start(name, func(c *cluster.Config) { c.SlowDisk, c.TrailingLogs = time.Second, 1 }, onDisk(disks[name]))
		}
		lead := g.leader()
		g.puts(1, 20)
		works := disks[lead.cfg.Name].Hang()
		defer works()
		go func() { _ = lead.Snapshot(t.Context()) }()
		time.Sleep(100 * time.Millisecond) // simulated
		go func() { _, _ = lead.Propose(t.Context(), value(99)) }()
		g.wait("another node leads", func() bool {
			for _, name := range g.others(lead.cfg.Name) {
				if g.nodes[name].Leads() {
					return true
				}
			}
			return false
		})
		if lead.Trouble() == nil || lead.Status().LastContact < time.Second {
			t.Errorf("the former leader reports no trouble; its status: %+v", lead.Status())
		}
	})
}
