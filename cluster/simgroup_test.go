package cluster_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/clustertest"
)

// simGroup is a cluster under simulated time. Unlike the nodes of simulated, its nodes have real
// data directories, and they can be stopped, killed and started again.
type simGroup struct {
	t     testing.TB
	hub   *clustertest.Hub
	dir   string
	names []string
	nodes map[string]*simNode
}

type simNode struct {
	*cluster.Node
	sm  *tally
	cfg cluster.Config
}

// newSimGroup returns a cluster of nodes n0, n1 and so on, none of which runs.
func newSimGroup(t testing.TB, nodes int) *simGroup {
	g := &simGroup{t: t, hub: clustertest.NewHub(1), dir: t.TempDir(), nodes: map[string]*simNode{}}
	for i := range nodes {
		g.names = append(g.names, fmt.Sprintf("n%d", i))
	}
	t.Cleanup(func() {
		for _, name := range slices.Sorted(maps.Keys(g.nodes)) {
			g.stop(name)
		}
	})
	return g
}

// inMemory makes a node keep its log in memory, which is faster.
func inMemory(c *cluster.Config) {
	storage := clustertest.NewStorage()
	c.Storage = &storage
}

// threeSimulated returns a cluster of three nodes that have a leader.
func threeSimulated(t testing.TB, change ...func(*cluster.Config)) *simGroup {
	t.Helper()
	g := newSimGroup(t, 3)
	for _, name := range g.names {
		g.start(name, change...)
	}
	g.leader()
	return g
}

func (g *simGroup) address(name string) string { return name + ":1" }

func (g *simGroup) start(name string, change ...func(*cluster.Config)) *simNode {
	g.t.Helper()
	var peers []string
	for _, n := range g.names {
		peers = append(peers, g.address(n))
	}
	m := &simNode{sm: &tally{}}
	m.cfg = cluster.Config{
		Name: name, DataDir: filepath.Join(g.dir, name), StateMachine: m.sm, Network: g.hub.NewNetwork(name, g.address(name)),
		Discover: func(context.Context) ([]string, error) { return peers, nil }, Expect: len(g.names), BootID: name + time.Now().String(),
		FeatureLevel: 1, SegmentBytes: 1 << 20, Logger: testLogger(name),
	}
	for _, f := range change {
		f(&m.cfg)
	}
	if s, ok := m.cfg.StateMachine.(*slowTally); ok {
		m.sm = &s.tally
	}
	var err error
	if m.Node, err = cluster.New(m.cfg); err == nil {
		err = m.Open(g.t.Context())
	}
	if err != nil {
		g.t.Fatalf("start %s: %v", name, err)
	}
	g.nodes[name] = m
	return m
}

func (g *simGroup) stop(name string) {
	g.t.Helper()
	m := g.nodes[name]
	delete(g.nodes, name)
	if err := m.Close(); err != nil {
		g.t.Errorf("close %s: %v", name, err)
	}
}

// kill makes a node unreachable, as the kernel does for a killed process, and returns a copy of its
// data directory: the disk after the end of the process. The node itself is closed at the end of
// the test.
func (g *simGroup) kill(name string) (dir string) {
	g.t.Helper()
	m := g.nodes[name]
	delete(g.nodes, name)
	m.cfg.Network.(*clustertest.Network).Crash()
	dir = g.copyOf(m.cfg.DataDir)
	g.t.Cleanup(func() { _ = m.Close() })
	return dir
}

// copyOf returns a copy of a directory.
func (g *simGroup) copyOf(dir string) string {
	g.t.Helper()
	to := filepath.Join(g.t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		g.t.Fatal(err)
	}
	return to
}

// leader waits until one node leads and all others that run know it, and returns it.
func (g *simGroup) leader() *simNode {
	g.t.Helper()
	var lead *simNode
	g.wait("all nodes know one leader", func() bool {
		lead = nil
		for _, m := range g.nodes {
			if m.Leads() {
				lead = m
			}
		}
		for _, m := range g.nodes {
			if lead == nil || m.Status().LeaderName != lead.cfg.Name {
				return false
			}
		}
		return lead != nil
	})
	return lead
}

// wait waits for a condition, at most for a minute of simulated time.
func (g *simGroup) wait(what string, holds func() bool) {
	g.t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); {
		if time.Now().After(deadline) {
			g.t.Fatalf("timeout while waiting until %s", what)
		}
		time.Sleep(10 * time.Millisecond) // simulated
	}
}

// put commits a value on the leader. If the leader changes meanwhile, put repeats it.
func (g *simGroup) put(v uint64) {
	g.t.Helper()
	for range 10 {
		if _, err := g.leader().Propose(g.t.Context(), value(v)); err == nil {
			return
		}
	}
	g.t.Fatalf("value %d cannot be committed", v)
}

// puts commits the values from v on.
func (g *simGroup) puts(v uint64, count int) {
	g.t.Helper()
	for i := range count {
		g.put(v + uint64(i))
	}
}

// others returns the names of the other nodes.
func (g *simGroup) others(names ...string) []string {
	return slices.DeleteFunc(slices.Clone(g.names), func(n string) bool { return slices.Contains(names, n) })
}
