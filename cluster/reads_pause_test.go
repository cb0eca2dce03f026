package cluster_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/clustertest"
)

// Test_ReadIndex_CountsNoOldAnswers stops the leader while the responses of the followers to its
// messages are on their way. Another node leads and commits a value meanwhile. The former leader
// then receives the old responses of one follower, and nothing else. They do not confirm that it
// leads.
func Test_ReadIndex_CountsNoOldAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t, inMemory)
		g.put(1)
		old := g.leader()
		next := g.others(old.cfg.Name)[0]
		g.hold(old)
		index := g.depose(old, next, 2)
		stale := g.reads(old, index)
		g.hub.Cut(next, old.cfg.Name)
		g.hub.Resume(old.cfg.Name)
		stale()
		g.hub.Heal()
		if got, err := old.ReadIndex(t.Context()); err != nil || got < index {
			t.Errorf("once the network is whole, the read index is %d (%v), want at least %d", got, err, index)
		}
	})
}

// Test_ReadIndex_ARoundConfirmsNoLaterReads begins a read before the leader is deposed. The voters
// confirm the leader, but their responses arrive later. They do not confirm it for reads that began
// after their question was sent.
func Test_ReadIndex_ARoundConfirmsNoLaterReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t, inMemory)
		g.put(1)
		old := g.leader()
		next := g.others(old.cfg.Name)[0]
		g.hub.Hold(old.cfg.Name)
		before := g.reads(old, 0) // its questions reach the voters
		g.hold(old)
		index := g.depose(old, next, 2)
		stale := g.reads(old, index)
		g.hub.Cut(next, old.cfg.Name)
		g.hub.Resume(old.cfg.Name)
		stale()
		before()
	})
}

// Test_ReadIndex_DuringAChangeOfTheVoters deposes a leader that has just removed a voter. The others
// may or may not know the removal, and elect a leader by either configuration. A removed node joins
// again.
func Test_ReadIndex_DuringAChangeOfTheVoters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newSimGroup(t, 5)
		for _, name := range g.names {
			g.start(name, inMemory, func(c *cluster.Config) { c.Voters = 5 })
		}
		g.leader()
		g.put(1)
		deposed := 0
		for round := range 16 {
			time.Sleep(20 * time.Second) // the removed node joins and votes again meanwhile
			old := g.leader()
			var voters []string
			for _, m := range old.Members() {
				if m.Voter && m.Name != old.cfg.Name {
					voters = append(voters, m.Name)
				}
			}
			next, removed := voters[round%len(voters)], voters[(round+1+round/4%2)%len(voters)]
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			var change sync.WaitGroup
			if round%3 == 0 { // no other node learns of the removal
				g.hub.Part([]string{old.cfg.Name}, g.others(old.cfg.Name))
			}
			g.hub.Hold(old.cfg.Name)
			change.Go(func() { _ = old.Remove(ctx, removed) })
			time.Sleep(time.Duration(round%5) * 30 * time.Millisecond)
			g.nodes[next].cfg.Network.(*clustertest.Network).Elect()
			time.Sleep(200 * time.Millisecond)
			index := uint64(0)
			if next := g.nodes[next]; next.Leads() {
				res, err := next.Propose(t.Context(), value(uint64(round+2)))
				if err != nil {
					t.Fatal(err)
				}
				index = res.Index
				deposed++
			}
			stale := g.reads(old, index)
			if round%2 == 0 {
				g.hub.Cut(next, old.cfg.Name)
			}
			g.hub.Resume(old.cfg.Name)
			stale()
			g.hub.Heal()
			cancel()
			change.Wait()
		}
		if deposed < 5 {
			t.Errorf("%d leaders were deposed: the test proves little", deposed)
		}
	})
}

// hold holds the messages to the leader until it waits for the responses to its messages.
func (g *simGroup) hold(lead *simNode) {
	g.hub.Hold(lead.cfg.Name)
	time.Sleep(150 * time.Millisecond) // simulated; longer than the interval of heartbeats
}

// depose makes another node the leader, while the former one does not learn it, and commits a value
// there.
func (g *simGroup) depose(old *simNode, next string, v uint64) (index uint64) {
	g.t.Helper()
	g.nodes[next].cfg.Network.(*clustertest.Network).Elect()
	g.wait("another node leads", g.nodes[next].Leads)
	res, err := g.nodes[next].Propose(g.t.Context(), value(v))
	if err != nil {
		g.t.Fatal(err)
	}
	if !old.Leads() {
		g.t.Fatal("the former leader knows that it was deposed: the test proves nothing")
	}
	return res.Index
}

// reads begins some reads on a node, after a value was committed at index. The returned function
// waits for them. None may return a lower index.
func (g *simGroup) reads(m *simNode, index uint64) (wait func()) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 250*time.Millisecond)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if got, err := m.ReadIndex(ctx); err == nil && got < index {
				g.t.Errorf("the deposed leader %s returns the read index %d, but a value was committed at %d before", m.cfg.Name, got, index)
			}
		})
	}
	synctest.Wait()
	return func() { g.t.Helper(); wg.Wait(); cancel() }
}
