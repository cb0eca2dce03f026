package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/clustertest"
)

// simulated is a cluster under simulated time, with the nodes n0, n1 and so on.
func simulated(t *testing.T, nodes int, change func(i int, n *cluster.Config), before func(i int, n *cluster.Node)) []*cluster.Node {
	t.Helper()
	hub := clustertest.NewHub(1)
	var all []*cluster.Node
	var peers []string
	for i := range nodes {
		peers = append(peers, fmt.Sprintf("n%d:1", i))
	}
	for i := range nodes {
		storage := clustertest.NewStorage()
		cfg := cluster.Config{
			Name: fmt.Sprintf("n%d", i), DataDir: t.TempDir(), StateMachine: &tally{}, Network: hub.NewNetwork(fmt.Sprintf("n%d", i), peers[i]),
			Storage: &storage, Discover: func(context.Context) ([]string, error) { return peers, nil }, Expect: nodes, BootID: "b", FeatureLevel: 1,
			Logger: testLogger(fmt.Sprintf("n%d", i)),
		}
		if change != nil {
			change(i, &cfg)
		}
		n, err := cluster.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if before != nil {
			before(i, n)
		}
		if err := n.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		all = append(all, n)
	}
	return all
}

func closeAll(t *testing.T, nodes []*cluster.Node) {
	t.Helper()
	for _, n := range nodes {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	}
}

// leads waits until a node leads and returns it.
func leads(t *testing.T, nodes []*cluster.Node) *cluster.Node {
	t.Helper()
	for range 1000 {
		if i := slices.IndexFunc(nodes, (*cluster.Node).Leads); i >= 0 {
			return nodes[i]
		}
		time.Sleep(20 * time.Millisecond) // simulated time
	}
	t.Fatal("no node leads")
	return nil
}

// Test_Term_JudgesNoMemberByAFormerOne checks that a node that leads again measures the silence of
// members from then on: while it did not lead, it pinged no member.
func Test_Term_JudgesNoMemberByAFormerOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		silent := map[string]time.Duration{} // the longest silence, by leader
		nodes := simulated(t, 3, nil, func(_ int, n *cluster.Node) {
			n.Lead(func(context.Context, *cluster.Term) error {
				mu.Lock()
				defer mu.Unlock()
				for _, m := range n.Members() {
					if m.ServerID != n.ServerID() {
						p := n.Peer(m.Name, m.ServerID[len(m.Name)+1:])
						silent[n.ServerID()] = max(silent[n.ServerID()], p.Silent)
					}
				}
				return nil
			})
		})
		for range 6 { // each leads more than once
			time.Sleep(time.Minute)
			if err := leads(t, nodes).TransferLeadership(t.Context(), ""); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		for id, d := range silent {
			if d > time.Second {
				t.Errorf("at the start of its term, %s considered a member silent for %s", id, d)
			}
		}
		closeAll(t, nodes)
	})
}

// Test_Leave_DoesNotJoinAgain checks that a removed node that leaves does not join again while its
// process runs, and joins again after Leave(false).
func Test_Leave_DoesNotJoinAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := simulated(t, 4, nil, nil)
		lead := leads(t, nodes)
		away := nodes[slices.IndexFunc(nodes, func(n *cluster.Node) bool { return n != lead })]
		member := func() bool {
			return slices.ContainsFunc(lead.Members(), func(m cluster.Member) bool { return m.ServerID == away.ServerID() })
		}
		time.Sleep(time.Minute)
		if !member() {
			t.Fatal("the node is no member before it leaves")
		}
		away.Leave(true)
		if err := lead.Remove(t.Context(), away.ServerID()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if member() {
			t.Error("the node has joined again")
		}
		away.Leave(false)
		time.Sleep(time.Minute)
		if !member() {
			t.Error("the node has not joined again, although it stays")
		}
		closeAll(t, nodes)
	})
}

// Test_Term_BeginsByNoWrongClock makes a node the leader while its clock is ahead. It must stamp no
// command before another node leads.
func Test_Term_BeginsByNoWrongClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ahead [3]atomic.Int64
		var states [3]*tally
		nodes := simulated(t, 3, func(i int, c *cluster.Config) {
			c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead[i].Load())) }
			states[i] = c.StateMachine.(*tally)
		}, nil)
		lead := leads(t, nodes)
		put(t, lead, 1)
		time.Sleep(time.Minute)
		i := slices.IndexFunc(nodes, func(n *cluster.Node) bool { return n != lead })
		ahead[i].Store(int64(2 * time.Hour))
		if err := lead.TransferLeadership(t.Context(), nodes[i].Status().Name); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if lead := leads(t, nodes); lead == nodes[i] {
			t.Error("the node whose clock is wrong leads")
		} else {
			put(t, lead, 2)
		}
		right := func(when string) {
			t.Helper()
			if d := time.Until(time.Unix(0, states[i].LastTime())); d > time.Second {
				t.Errorf("%s the time of the state is %s ahead", when, d)
			}
		}
		right("once another node leads")
		ahead[i].Store(0)
		time.Sleep(time.Minute)
		if err := leads(t, nodes).TransferLeadership(t.Context(), nodes[i].Status().Name); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		put(t, nodes[i], 3)
		if !nodes[i].Leads() {
			t.Error("the node does not lead, although its clock is right")
		}
		right("once it leads with its clock set right")
		closeAll(t, nodes)
	})
}
