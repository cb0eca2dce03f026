package cluster_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_Reached_EndsWithoutALeader separates a follower from the leader, in one direction or in
// both. The follower notices that it reaches no leader, and that it reaches one again.
func Test_Reached_EndsWithoutALeader(t *testing.T) {
	for name, cut := range map[string]func(g *simGroup, node, leader string){
		"requests to the leader are lost": func(g *simGroup, node, leader string) { g.hub.Cut(node, leader) },
		"nothing arrives": func(g *simGroup, node, _ string) {
			for _, other := range g.others(node) {
				g.hub.Cut(other, node)
			}
		},
		"nothing passes": func(g *simGroup, node, _ string) { g.hub.Part([]string{node}, g.others(node)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := threeSimulated(t, inMemory)
				lead := g.leader()
				time.Sleep(2 * time.Second) // simulated: the node has noticed that there is a leader
				m := g.nodes[g.others(lead.cfg.Name)[0]]
				cut(g, m.cfg.Name, lead.cfg.Name)
				began := time.Now()
				reached := m.Reached()
				if reached.Err() != nil {
					t.Fatal("the node reaches no leader before it is separated")
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				go func() { _, _ = m.Propose(ctx, value(1)) }()
				select {
				case <-reached.Done():
				case <-ctx.Done():
					t.Fatal("the node does not notice that it reaches no leader")
				}
				if d := time.Since(began); d < cluster.UnreachableTimeout || d > 3*cluster.UnreachableTimeout/2+time.Second {
					t.Errorf("it notices it after %s", d)
				}
				g.hub.Heal()
				g.wait("the node reaches a leader again", func() bool { return m.Reached().Err() == nil })
				if _, err := m.Propose(t.Context(), value(2)); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Test_Reached_WaitsForASlowLeader checks that a leader that needs long for a command counts as
// reached.
func Test_Reached_WaitsForASlowLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t, inMemory, func(c *cluster.Config) {
			c.Prepare = func(_ context.Context, cmd *clusterv1.Command) (*clusterv1.Command, error) {
				if cmd.Type == 1 {
					time.Sleep(4 * cluster.UnreachableTimeout) // simulated
				}
				return cmd, nil
			}
		})
		m := g.nodes[g.others(g.leader().cfg.Name)[0]]
		reached := m.Reached()
		if _, err := m.Propose(t.Context(), value(1)); err != nil {
			t.Error(err)
		}
		if reached.Err() != nil {
			t.Error("the node took the leader for unreachable")
		}
	})
}
