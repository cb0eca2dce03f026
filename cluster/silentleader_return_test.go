package cluster_test

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
)

// Test_SilentLeader_AReturningNodeDeposesNobody separates some nodes from the others, which change the
// term meanwhile. When the nodes return, they know the term before they hear its leader. The leader
// must lead on.
func Test_SilentLeader_AReturningNodeDeposesNobody(t *testing.T) {
	for _, size := range []struct{ nodes, away int }{{3, 1}, {5, 2}} {
		synctest.Test(t, func(t *testing.T) {
			g := newSimGroup(t, size.nodes)
			g.hub.Timeout = 2 * time.Second // the messages of the leader come late after the return
			for _, name := range g.names {
				g.start(name, inMemory, func(c *cluster.Config) { c.Voters = size.nodes })
			}
			g.leader()
			g.wait("all nodes vote", func() bool {
				return !slices.ContainsFunc(g.names, func(name string) bool { return !g.nodes[name].Status().Voter })
			})
			for round := range 6 {
				lead := g.leader().cfg.Name
				away := g.others(lead)[:size.away]
				stay := g.others(away...)
				g.hub.Part(away, stay)
				time.Sleep(3 * time.Second)
				for range 2 {
					lead = transfer(g, lead, stay)
					time.Sleep(time.Second)
				}
				time.Sleep(time.Duration(round) * 73 * time.Millisecond)
				term := g.nodes[lead].Status().Term
				g.hub.Heal()
				time.Sleep(5 * time.Second)
				if now := g.leader().Status().Term; now != term {
					t.Errorf("%d of %d nodes away, round %d: the term was %d and is %d", size.away, size.nodes, round, term, now)
				}
			}
		})
	}
}

// transfer gives the leadership to another of some nodes, and returns its name.
func transfer(g *simGroup, lead string, names []string) string {
	g.t.Helper()
	to := names[(slices.Index(names, lead)+1)%len(names)]
	if err := g.nodes[lead].TransferLeadership(g.t.Context(), to); err != nil {
		g.t.Fatal(err)
	}
	g.wait(to+" leads", g.nodes[to].Leads)
	return to
}
