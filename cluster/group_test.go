package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/pki"
	"github.com/image-builder-ha/image-builder/cluster/transport"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// group is a cluster of real nodes on loopback in this process.
type group struct {
	t     testing.TB
	dir   string
	certs string

	mu    sync.Mutex
	nodes map[string]*member
}

type member struct {
	*cluster.Node
	sm      *tally
	cfg     cluster.Config
	address string
}

func newGroup(t testing.TB) *group {
	g := &group{t: t, dir: t.TempDir(), certs: t.TempDir(), nodes: map[string]*member{}}
	t.Cleanup(g.close)
	return g
}

func (g *group) close() {
	g.mu.Lock()
	nodes := g.nodes
	g.nodes = map[string]*member{}
	g.mu.Unlock()
	for _, m := range nodes {
		if err := m.Close(); err != nil {
			g.t.Errorf("close: %v", err)
		}
	}
}

// addresses returns the addresses of the group's nodes.
func (g *group) addresses(context.Context) (out []string, _ error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.nodes {
		out = append(out, m.address)
	}
	return out, nil
}

func testLogger(name string) *slog.Logger {
	if os.Getenv("CLUSTER_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("at", name)
}

// prepare returns the configuration of one node of the group.
func (g *group) prepare(name string, change ...func(*cluster.Config)) cluster.Config {
	g.t.Helper()
	files, err := pki.IssueCert(g.certs, pki.CertIdentity{Cluster: "test", Role: pki.RoleNode, Name: name}, false)
	if err != nil {
		g.t.Fatal(err)
	}
	certs, err := pki.LoadCerts(files, testLogger(name))
	if err != nil {
		g.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	cfg := cluster.Config{
		Name: name, DataDir: filepath.Join(g.dir, name), StateMachine: &tally{}, Cluster: "test", Expect: 3,
		Discover: g.addresses, Logger: testLogger(name), SegmentBytes: 1 << 20, StableFor: 300 * time.Millisecond, PingInterval: 100 * time.Millisecond,
		Network: transport.NewTLS(transport.TLSOptions{
			Cluster: "test", Listener: l, Advertise: l.Addr().String(), Certs: certs, Logger: testLogger(name),
		}),
		BootID: name + time.Now().String(), FeatureLevel: 1,
	}
	for _, f := range change {
		f(&cfg)
	}
	return cfg
}

func (g *group) start(name string, change ...func(*cluster.Config)) *member {
	g.t.Helper()
	cfg := g.prepare(name, change...)
	n, err := cluster.New(cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	m := &member{Node: n, sm: cfg.StateMachine.(*tally), cfg: cfg, address: cfg.Network.Address()}
	if err := n.Open(g.t.Context()); err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.nodes[name] = m
	return m
}

func (g *group) stop(name string) {
	g.t.Helper()
	g.mu.Lock()
	m := g.nodes[name]
	delete(g.nodes, name)
	g.mu.Unlock()
	if err := m.Close(); err != nil {
		g.t.Errorf("close %s: %v", name, err)
	}
}

func (g *group) get(name string) *member {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.nodes[name]
}

// leader waits until one node leads and all others know it, and returns it.
func (g *group) leader() *member {
	g.t.Helper()
	var lead *member
	testkit.Eventually(g.t, time.Minute, "all nodes know one leader", func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		name := ""
		for _, m := range g.nodes {
			s := m.Status()
			if s.LeaderName == "" || name != "" && s.LeaderName != name {
				return false
			}
			name = s.LeaderName
		}
		lead = g.nodes[name]
		return lead != nil && lead.Status().Role == "Leader"
	})
	return lead
}

func three(t testing.TB) *group {
	t.Helper()
	g := newGroup(t)
	for i := range 3 {
		g.start(fmt.Sprintf("n%d", i))
	}
	g.leader()
	return g
}

func Test_Group_FormsAndForwards(t *testing.T) {
	g := three(t)
	for i := range 3 {
		m := g.get(fmt.Sprintf("n%d", i))
		res := put(t, m.Node, uint64(i))
		if res.Result != uint64(i) {
			t.Errorf("n%d: result %v", i, res.Result)
		}
		if !slices.Contains(m.sm.values(), uint64(i)) {
			t.Errorf("n%d has not applied its own proposal", i)
		}
		index, err := m.ReadIndex(t.Context())
		if err != nil || index < res.Index {
			t.Errorf("n%d: read index %d, want at least %d (%v)", i, index, res.Index, err)
		}
	}
	id := ""
	for i := range 3 {
		s := g.get(fmt.Sprintf("n%d", i)).Status()
		if s.ClusterID == "" || id != "" && s.ClusterID != id || !s.Voter {
			t.Errorf("n%d: %+v, want cluster %q", i, s, id)
		}
		id = s.ClusterID
	}
}

func Test_Group_LeaderDies_WritesGoOn(t *testing.T) {
	g := three(t)
	old := g.leader()
	put(t, old.Node, 1)
	g.stop(old.cfg.Name)
	begin := time.Now()
	for i := range 3 {
		m := g.get(fmt.Sprintf("n%d", i))
		if m == nil {
			continue
		}
		// The leader may have ended while the command was on its way: retry.
		_, err := m.Propose(t.Context(), value(uint64(10+i)))
		for errors.Is(err, cluster.ErrOutcomeUnknown) {
			_, err = m.Propose(t.Context(), value(uint64(10+i)))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("the first write after the failover succeeded after %s", time.Since(begin))
	// The former leader returns with its data and another address.
	m := g.start(old.cfg.Name)
	testkit.Eventually(t, time.Minute, "the restarted node follows", func() bool { return len(m.sm.values()) >= 3 })
	testkit.Eventually(t, time.Minute, "the cluster knows its address", func() bool {
		for _, x := range g.leader().Members() {
			if x.Name == old.cfg.Name {
				return x.Address == m.address && x.Voter
			}
		}
		return false
	})
}

func Test_Group_FourthNodeFollows_WipedDiskIsANewServer(t *testing.T) {
	g := three(t)
	put(t, g.leader().Node, 1)
	m := g.start("n3")
	testkit.Eventually(t, time.Minute, "the fourth node has the state", func() bool { return len(m.sm.values()) == 1 })
	if s := m.Status(); s.Voter {
		t.Errorf("a fourth node votes: %+v", s)
	}
	victim := "n1"
	if g.leader().cfg.Name == victim {
		victim = "n2"
	}
	old := g.get(victim).Status().StoreID
	g.stop(victim)
	if err := os.RemoveAll(filepath.Join(g.dir, victim)); err != nil {
		t.Fatal(err)
	}
	m = g.start(victim)
	testkit.Eventually(t, time.Minute, "the wiped node has the state", func() bool { return len(m.sm.values()) == 1 })
	testkit.Eventually(t, time.Minute, "its former server is removed, three vote", func() bool {
		voters, former := 0, false
		for _, x := range g.leader().Members() {
			former = former || x.ServerID == victim+"/"+old
			if x.Voter {
				voters++
			}
		}
		return !former && voters == 3
	})
}

// Test_Group_ReadsAreNotBehindWhatAFollowerShowed reads after a follower has applied a command that
// the leader has committed but not applied.
func Test_Group_ReadsAreNotBehindWhatAFollowerShowed(t *testing.T) {
	g := three(t)
	lead := g.leader()
	follower := g.get("n0")
	if follower == lead {
		follower = g.get("n1")
	}
	put(t, lead.Node, 1)
	lead.sm.mu.Lock() // the leader commits but cannot apply
	var write sync.WaitGroup
	defer write.Wait()
	defer lead.sm.mu.Unlock()
	write.Go(func() {
		if _, err := follower.Propose(t.Context(), value(2)); err != nil {
			t.Errorf("propose: %v", err)
		}
	})
	testkit.Eventually(t, time.Minute, "the follower has applied it", func() bool { return slices.Contains(follower.sm.values(), 2) })
	shown := follower.Applied()
	for _, m := range []*member{lead, follower} {
		index, err := m.ReadIndex(t.Context())
		if err != nil || index < shown {
			t.Errorf("%s: read index %d (%v), want at least %d, which a client may have seen", m.cfg.Name, index, err, shown)
		}
	}
}
