package cluster_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
)

// Test_Prune_OnlySilentMembers lets a removal of a silent member wait for another change of the
// membership. The member stays if it responds again meanwhile, and is removed if it stays silent.
func Test_Prune_OnlySilentMembers(t *testing.T) {
	for name, heals := range map[string]bool{"responds again": true, "stays silent": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newSimGroup(t, 4)
				for _, name := range g.names {
					g.start(name, inMemory, func(c *cluster.Config) { c.PruneAfter = time.Minute })
				}
				lead := g.leader()
				g.wait("all nodes are members", func() bool { return len(lead.Members()) == 4 })
				time.Sleep(time.Minute) // simulated: autopilot has made the voters
				silent := g.nodes[g.others(lead.cfg.Name)[0]]
				member := func() bool {
					return slices.ContainsFunc(lead.Members(), func(m cluster.Member) bool { return m.ServerID == silent.ServerID() })
				}
				g.hub.Part([]string{silent.cfg.Name}, g.others(silent.cfg.Name))
				time.Sleep(59 * time.Second)
				unlock := lead.LockMembership()
				time.Sleep(8 * time.Second) // the removal waits for the lock
				if heals {
					g.hub.Heal()
				}
				time.Sleep(2 * time.Second)
				unlock()
				removed := false
				for range 1000 {
					time.Sleep(2 * time.Millisecond) // simulated; a removed node joins again soon
					removed = removed || !member()
				}
				if !lead.Leads() {
					t.Fatal("the leader has changed")
				}
				if removed == heals {
					t.Errorf("the node was removed: %v, want %v", removed, !heals)
				}
			})
		})
	}
}
