package cluster_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
)

// Test_OneLinkIsRefused breaks the link between the leader and a follower, as a firewall does that
// rejects connections. Both are connected to the third node. After a while one node must lead for
// good and accept writes, and all nodes must have these once the link is whole again.
func Test_OneLinkIsRefused(t *testing.T) {
	for name, refuse := range map[string]func(g *simGroup, leader, follower string){
		"both directions":    func(g *simGroup, l, f string) { g.hub.Refuse(l, f); g.hub.Refuse(f, l) },
		"follower to leader": func(g *simGroup, l, f string) { g.hub.Refuse(f, l) },
		"leader to follower": func(g *simGroup, l, f string) { g.hub.Refuse(l, f) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := threeSimulated(t, inMemory)
				g.put(1)
				time.Sleep(10 * time.Second) // simulated
				lead := g.leader()
				refuse(g, lead.cfg.Name, g.others(lead.cfg.Name)[0])
				time.Sleep(10 * time.Second) // simulated
				leading := func() (names []string) {
					for _, n := range g.names {
						if g.nodes[n].Leads() {
							names = append(names, n)
						}
					}
					return names
				}
				now := leading()
				if len(now) != 1 {
					t.Fatalf("the nodes %q lead, want one", now)
				}
				lead = g.nodes[now[0]]
				term := lead.Status().Term
				for range 200 {
					time.Sleep(100 * time.Millisecond) // simulated
					if next := leading(); !slices.Equal(now, next) || lead.Status().Term != term {
						t.Fatalf("the leader changes from %q in term %d to %q in term %d", now, term, next, lead.Status().Term)
					}
				}
				put(t, lead.Node, 2)
				g.hub.Heal()
				for _, n := range g.names {
					g.wait(n+" has the value", func() bool { return slices.Contains(g.nodes[n].sm.values(), 2) })
				}
			})
		})
	}
}

// Test_KilledWhileASnapshotIsInstalled kills a follower while it restores a snapshot of the leader.
// It must catch up after the restart, and count for a majority again.
func Test_KilledWhileASnapshotIsInstalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		short := func(c *cluster.Config) { c.TrailingLogs, c.SnapshotThreshold = 5, 1<<40 }
		g := threeSimulated(t, short)
		g.puts(1, 20)
		lead := g.leader()
		victim := g.others(lead.cfg.Name)[0]
		g.wait("the follower has all values", func() bool { return len(g.nodes[victim].sm.values()) == 20 })
		g.stop(victim)
		for v := range uint64(100) { // several segments of the log, so that the snapshot removes some
			c := value(100 + v)
			c.Payload = append(c.Payload, make([]byte, 64<<10)...)
			if _, err := lead.Propose(t.Context(), c); err != nil {
				t.Fatal(err)
			}
		}
		if err := lead.Snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.puts(300, 20)
		slow := newSlowTally()
		slow.armed.Store(true)
		g.start(victim, short, func(c *cluster.Config) { c.StateMachine = slow })
		<-slow.reached
		dir := g.kill(victim)
		t.Cleanup(func() { // before the killed node is closed
			close(slow.resume)
			time.Sleep(time.Second) // simulated
		})
		again := g.start(victim, short, func(c *cluster.Config) { c.DataDir = dir })
		g.wait("the follower has all values", func() bool { return len(again.sm.values()) == 140 })
		g.stop(g.others(victim, lead.cfg.Name)[0])
		put(t, lead.Node, 400)
	})
}

// Test_ManyTransfers moves the leadership from node to node, many times and also before a leader
// has begun its term. A node that is not the leader must not believe for long that it leads.
func Test_ManyTransfers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t, func(c *cluster.Config) {
			inMemory(c)
			c.StableFor, c.PingInterval = time.Hour, 20*time.Millisecond
		})
		random := rand.New(rand.NewPCG(1, 1))
		wrong := map[string]time.Time{}
		transfers := 0
		for range 6000 {
			time.Sleep(time.Duration(random.IntN(6000)) * time.Microsecond) // simulated
			for _, name := range g.names {
				m := g.nodes[name]
				leader := m.Status().Role == "Leader"
				switch since, ok := wrong[name]; {
				case leader || !m.Leads():
					delete(wrong, name)
				case !ok:
					wrong[name] = time.Now()
				case time.Since(since) > 3*time.Second:
					t.Fatalf("after %d transfers %s has believed for %s that it leads, but it is a %s", transfers, name, time.Since(since), m.Status().Role)
				}
				if leader && random.IntN(10) == 0 && m.TransferLeadership(t.Context(), "") == nil {
					transfers++
				}
			}
		}
		if transfers < 300 {
			t.Errorf("only %d transfers have succeeded", transfers)
		}
		g.put(1)
	})
}
