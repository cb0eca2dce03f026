package cluster_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_Prune_OnlySilentMembers lets a removal of a silent member wait for another change of the
// membership. The member stays if it responds again meanwhile, and is removed if it stays silent.
// Autopilot decides at some time of an interval, and a removal waits for 10 s, so one of several
// durations of the other change catches it.
func Test_Prune_OnlySilentMembers(t *testing.T) {
	for _, c := range []struct {
		heals bool
		lasts time.Duration
	}{{true, 4 * time.Second}, {true, 6 * time.Second}, {true, 8 * time.Second}, {true, 11 * time.Second}, {false, 11 * time.Second}} {
		t.Run(fmt.Sprintf("responds again %t, after %s", c.heals, c.lasts), func(t *testing.T) {
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
				time.Sleep(c.lasts) // the removal waits for the lock
				if c.heals {
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
				if removed == c.heals {
					t.Errorf("the node was removed: %v, want %v", removed, !c.heals)
				}
			})
		})
	}
}

// Test_Join_FormerServerRespondsAgain lets a node join under the name of a member that does not
// respond, and the join wait for another change of the membership. If the member responds again
// meanwhile, it stays, and the node is refused.
func Test_Join_FormerServerRespondsAgain(t *testing.T) {
	for name, address := range map[string]string{"at another address": "elsewhere:1", "at the same address": ""} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := threeSimulated(t, inMemory)
				lead := g.leader()
				former := g.nodes[g.others(lead.cfg.Name)[0]]
				other := g.nodes[g.others(lead.cfg.Name, former.cfg.Name)[0]]
				if address == "" {
					address = g.address(former.cfg.Name)
				}
				g.hub.Part([]string{former.cfg.Name}, g.others(former.cfg.Name))
				time.Sleep(time.Second) // simulated
				unlock := lead.LockMembership()
				conn, err := other.LeaderConn()
				if err != nil {
					t.Fatal(err)
				}
				joined := make(chan error, 1)
				go func() {
					_, err := clusterv1.NewPeerClient(conn).Join(t.Context(), &clusterv1.JoinRequest{From: &clusterv1.Identity{
						Cluster: cluster.DefaultCluster, ClusterId: lead.Status().ClusterID, ServerId: former.cfg.Name + "/another", Address: address, FeatureLevel: 1,
					}})
					joined <- err
				}()
				time.Sleep(3 * time.Second) // the former server did not respond, and the join waits
				g.hub.Heal()
				time.Sleep(3 * time.Second)
				unlock()
				if err := <-joined; err == nil || !strings.Contains(err.Error(), "names must be unique") {
					t.Errorf("the join: %v, want a refusal", err)
				}
				var ids []string
				for _, m := range lead.Members() {
					ids = append(ids, m.ServerID)
				}
				if len(ids) != 3 || !slices.Contains(ids, former.ServerID()) {
					t.Errorf("the members are %v", ids)
				}
			})
		})
	}
}
