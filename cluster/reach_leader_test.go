package cluster_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/disktest"
)

// Test_Reached_OfASilentLeader: the disk of the leader hangs, so that it sends nothing, and one of two
// followers is away. The other follower reaches no leader, although the former leader responds to it.
func Test_Reached_OfASilentLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, disks := newSimGroup(t, 3), map[string]*disktest.Disk{}
		for _, name := range g.names {
			disks[name] = disktest.NewDisk()
			g.start(name, func(c *cluster.Config) { c.SlowDisk = time.Second }, onDisk(disks[name]))
		}
		lead := g.leader()
		time.Sleep(2 * time.Second) // simulated
		others := g.others(lead.cfg.Name)
		m := g.nodes[others[0]]
		reached := m.Reached()
		g.hub.Part([]string{others[1]}, []string{others[0], lead.cfg.Name})
		works := disks[lead.cfg.Name].Hang()
		defer works()
		go func() { _, _ = lead.Propose(t.Context(), value(1)) }()
		time.Sleep(time.Second + cluster.UnreachableTimeout + 500*time.Millisecond) // simulated
		if reached.Err() == nil {
			t.Errorf("the node has heard no leader for %s and still counts as connected", m.Status().LastContact)
		}
	})
}

// Test_Reached_OfAFormerLeader separates the leader and one follower of five nodes from the others.
// The former leader steps down when its lease ends. Its follower must no longer treat it as a
// leader then.
func Test_Reached_OfAFormerLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newSimGroup(t, 5)
		for _, name := range g.names {
			g.start(name, inMemory, func(c *cluster.Config) { c.Voters = 5 })
		}
		for round := range 6 {
			lead := g.leader().cfg.Name
			g.wait("all nodes vote", func() bool {
				return !slices.ContainsFunc(g.names, func(name string) bool { return !g.nodes[name].Status().Voter })
			})
			time.Sleep(15*time.Second + time.Duration(round)*50*time.Millisecond) // simulated; longer than flapTimeout
			others := g.others(lead)
			reached := g.nodes[others[0]].Reached()
			began := time.Now()
			g.hub.Part([]string{lead, others[0]}, others[1:])
			<-reached.Done()
			// The lease of 0.5 s, 0.8 s without the leader, one check and one round of pings.
			if took := time.Since(began); took > 1700*time.Millisecond {
				t.Errorf("round %d: the node notices after %s that it reaches no leader", round, took)
			}
			g.hub.Heal()
		}
	})
}
