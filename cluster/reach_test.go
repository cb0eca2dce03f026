package cluster_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_Reached_EndsWithoutALeader separates a node from others, in one direction or in both. The
// node notices in time that it reaches no leader, and that it reaches one again. It is the first
// follower, or the leader.
func Test_Reached_EndsWithoutALeader(t *testing.T) {
	for name, c := range map[string]struct {
		leads bool // the node is the leader
		cut   func(g *simGroup, node, leader string)
		after time.Duration
	}{
		"requests to the leader are lost": {false, func(g *simGroup, node, leader string) { g.hub.Cut(node, leader) }, 1350 * time.Millisecond},
		"nothing of the leader arrives":   {false, func(g *simGroup, node, leader string) { g.hub.Cut(leader, node) }, 800 * time.Millisecond},
		"nothing passes to the leader":    {false, func(g *simGroup, node, leader string) { g.hub.Part([]string{node}, []string{leader}) }, 800 * time.Millisecond},
		"nothing arrives": {false, func(g *simGroup, node, _ string) {
			for _, other := range g.others(node) {
				g.hub.Cut(other, node)
			}
		}, 1150 * time.Millisecond},
		"nothing passes": {false, func(g *simGroup, node, _ string) { g.hub.Part([]string{node}, g.others(node)) }, 1150 * time.Millisecond},
		"nothing arrives at the leader": {true, func(g *simGroup, node, _ string) {
			for _, other := range g.others(node) {
				g.hub.Cut(other, node)
			}
		}, 1150 * time.Millisecond},
		"nothing passes to or from the leader": {true, func(g *simGroup, node, _ string) { g.hub.Part([]string{node}, g.others(node)) }, 1150 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := threeSimulated(t, inMemory)
				lead := g.leader()
				time.Sleep(2 * time.Second) // simulated: the node has noticed that there is a leader
				m := g.nodes[g.others(lead.cfg.Name)[0]]
				if c.leads {
					m = lead
				}
				c.cut(g, m.cfg.Name, lead.cfg.Name)
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
				if d := time.Since(began); d < 400*time.Millisecond || d > c.after {
					t.Errorf("it notices it after %s, want at most %s", d, c.after)
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

// Test_Reached_WaitsForAnElection checks that nodes that can elect a leader wait for it, even if
// the election takes longer than usual.
func Test_Reached_WaitsForAnElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t, inMemory)
		lead := g.leader().cfg.Name
		time.Sleep(2 * time.Second) // simulated
		for _, name := range g.others(lead) {
			g.stop(name)
		}
		reached := g.nodes[lead].Reached()
		time.Sleep(2500 * time.Millisecond) // simulated: the hosts refuse connections, their processes may come back
		if reached.Err() != nil {
			t.Error("the node does not wait for members whose processes have ended")
		}
		time.Sleep(2 * cluster.UnreachableTimeout)
		if reached.Err() == nil {
			t.Error("the node waits for ever")
		}
	})
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

// Test_Reached_WithSlowMessages checks that no node counts as separated while every message takes up
// to 140 ms, as on a machine whose processors are busy.
func Test_Reached_WithSlowMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t, inMemory)
		g.hub.SetDelay(140 * time.Millisecond)
		time.Sleep(5 * time.Second) // simulated
		var all []context.Context
		for _, m := range g.nodes {
			all = append(all, m.Reached())
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		for _, m := range g.nodes {
			go func() {
				for ctx.Err() == nil {
					_, _ = m.Propose(ctx, value(1))
				}
			}()
		}
		<-ctx.Done()
		for _, reached := range all {
			if reached.Err() != nil {
				t.Error("a node took a slow leader for unreachable")
			}
		}
	})
}

// Test_Reached_ReturnsLaterEachTime checks that a node whose connection to the leader comes and goes
// waits longer each time before it accepts calls again.
func Test_Reached_ReturnsLaterEachTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t, inMemory)
		lead := g.leader().cfg.Name
		time.Sleep(2 * time.Second) // simulated
		m := g.nodes[g.others(lead)[0]]
		for _, want := range []time.Duration{0, 500 * time.Millisecond, time.Second, 2 * time.Second, 2 * time.Second} {
			g.hub.Part([]string{m.cfg.Name}, []string{lead})
			<-m.Reached().Done()
			g.hub.Heal()
			began := time.Now()
			for m.Reached().Err() != nil {
				time.Sleep(10 * time.Millisecond)
			}
			if took := time.Since(began); took < want || took > want+1200*time.Millisecond {
				t.Errorf("it returns after %s, want about %s", took, want)
			}
		}
	})
}

// Test_SilentLeader_IsReplacedInTime lets the leader hear nothing, ten times. The others elect
// another one soon after its lease has ended. It takes longer only if the timers of both followers
// end before, and the one with the shorter log is the second.
func Test_SilentLeader_IsReplacedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t, inMemory)
		late := 0
		for range 10 {
			former := g.leader()
			others := g.others(former.cfg.Name)
			time.Sleep(2 * time.Second) // simulated
			for _, other := range others {
				g.hub.Cut(other, former.cfg.Name)
			}
			began := time.Now()
			g.wait("another node leads", func() bool { return g.nodes[others[0]].Leads() || g.nodes[others[1]].Leads() })
			if took := time.Since(began); took > time.Second {
				late++
				t.Logf("another node leads after %s", took)
			}
			g.hub.Heal()
		}
		if late > 2 {
			t.Errorf("%d of 10 elections took more than a second", late)
		}
	})
}
