package cluster_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/clustertest"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_Confirm_ByAMajorityOfTheVoters checks which nodes a read needs, and that it waits for no
// others.
func Test_Confirm_ByAMajorityOfTheVoters(t *testing.T) {
	type faults func(g *simGroup, lead string, others []string)
	for _, c := range []struct {
		name   string
		faults faults
		fails  bool
	}{
		{name: "all answer", faults: func(*simGroup, string, []string) {}},
		{name: "one does not answer", faults: func(g *simGroup, _ string, others []string) { g.hub.Pause(others[0]) }},
		{name: "one has stopped", faults: func(g *simGroup, _ string, others []string) { g.stop(others[1]) }},
		{name: "none answers", fails: true, faults: func(g *simGroup, _ string, others []string) {
			g.hub.Pause(others[0])
			g.hub.Pause(others[1])
		}},
		{name: "their answers are lost", fails: true, faults: func(g *simGroup, lead string, others []string) {
			g.hub.Cut(others[0], lead)
			g.hub.Cut(others[1], lead)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := threeSimulated(t, inMemory)
				g.put(1)
				lead := g.leader()
				c.faults(g, lead.cfg.Name, g.others(lead.cfg.Name))
				checkRead(t, lead, c.fails)
				g.hub.Heal()
			})
		})
	}
}

// checkRead reads on the leader. The read takes no longer than two messages, or it fails.
func checkRead(t *testing.T, lead *simNode, fails bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	index, err := lead.ReadIndex(ctx)
	switch {
	case fails && err == nil:
		t.Errorf("the read index is %d, although no majority confirms the leader", index)
	case !fails && err != nil:
		t.Errorf("a majority confirms the leader: %v", err)
	}
}

// Test_Confirm_BesideOlderVersions checks that reads work beside nodes that do not serve Confirm
// until ConfirmReads says that all do. From then on such a node confirms nothing.
func Test_Confirm_BesideOlderVersions(t *testing.T) {
	for _, c := range []struct {
		name  string
		older int // of three nodes, the leader not included
		all   bool
		fails bool
	}{
		{name: "below the feature level", older: 2},
		{name: "one older node above the feature level", older: 1, all: true},
		{name: "two older nodes above the feature level", older: 2, all: true, fails: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var all atomic.Bool
				g := newSimGroup(t, 3)
				for i, name := range g.names {
					g.start(name, inMemory, func(cfg *cluster.Config) {
						cfg.ConfirmReads = all.Load
						if i > 0 && i <= c.older {
							cfg.Network.(*clustertest.Network).Missing = []string{clusterv1.Peer_Confirm_FullMethodName}
						}
					})
				}
				g.leader()
				g.nodes["n0"].cfg.Network.(*clustertest.Network).Elect()
				g.wait("the newest version leads", g.nodes["n0"].Leads)
				g.put(1)
				all.Store(c.all)
				checkRead(t, g.nodes["n0"], c.fails)
			})
		})
	}
}

// Test_Confirm_NonVotersDoNotCount checks that the response of a node that does not vote confirms
// nothing.
func Test_Confirm_NonVotersDoNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newSimGroup(t, 4)
		for _, name := range g.names {
			g.start(name, inMemory, func(cfg *cluster.Config) { cfg.Expect = 4; cfg.Voters = 3 })
		}
		lead := g.leader()
		g.put(1)
		time.Sleep(time.Minute)
		voters := 0
		for _, m := range lead.Members() {
			if m.Voter {
				voters++
			}
			if m.Voter && m.Name != lead.cfg.Name {
				g.hub.Cut(m.Name, lead.cfg.Name)
			}
		}
		if voters != 3 {
			t.Fatalf("%d of 4 nodes vote, want 3", voters)
		}
		checkRead(t, lead, true)
		g.hub.Heal()
	})
}

// Test_Confirm_KnowsEveryTerm checks that a node knows of each term before Raft uses it, even after
// a restart: Confirm relies on the keys under which Raft stores its terms.
func Test_Confirm_KnowsEveryTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t)
		check := func(when string) {
			t.Helper()
			for name, m := range g.nodes {
				if got, want := m.GreatestTerm(), m.Status().Term; got != want || want == 0 {
					t.Errorf("%s node %s knows term %d, Raft is in term %d", when, name, got, want)
				}
			}
		}
		check("after the first election")
		old := g.leader()
		g.nodes[g.others(old.cfg.Name)[0]].cfg.Network.(*clustertest.Network).Elect()
		g.wait("another node leads", func() bool { return !old.Leads() && g.leader() != nil })
		check("after the second election")
		name := old.cfg.Name
		g.stop(name)
		m := g.start(name)
		if got, want := m.GreatestTerm(), m.Status().Term; got < want || got < 2 {
			t.Errorf("after a restart the node knows term %d, Raft is in term %d", got, want)
		}
		g.leader()
	})
}

// Test_Confirm_AfterTheTermWentBack checks that a node does not confirm a leader of a term before
// the one in which it has voted, whatever Raft says about its term.
func Test_Confirm_AfterTheTermWentBack(t *testing.T) {
	s, err := cluster.NewTermStore(raft.NewInmemStore())
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []struct {
		key        string
		term, want uint64
	}{
		{"CurrentTerm", 4, 4}, {"LastVoteTerm", 5, 5}, {"CurrentTerm", 4, 5}, {"other", 9, 5}, {"CurrentTerm", 6, 6},
	} {
		if err := s.SetUint64([]byte(set.key), set.term); err != nil {
			t.Fatal(err)
		}
		if got := s.Greatest(); got != set.want {
			t.Errorf("after %s = %d the greatest term is %d, want %d", set.key, set.term, got, set.want)
		}
	}
	s, err = cluster.NewTermStore(s.StableStore)
	if err != nil || s.Greatest() != 6 {
		t.Errorf("a new store knows term %d (%v), want 6", s.Greatest(), err)
	}
	if _, err := cluster.NewTermStore(brokenStore{s.StableStore}); err == nil {
		t.Error("a term that cannot be read is no error")
	}
}

// brokenStore is a store that cannot be read.
type brokenStore struct{ raft.StableStore }

func (brokenStore) GetUint64([]byte) (uint64, error) { return 0, errors.New("input/output error") }
