package cluster_test

import (
	"encoding/binary"
	"hash/fnv"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// hashedTally is a tally with a checkpoint before each index that is a multiple of 4.
type hashedTally struct {
	tally
	version string
	last    uint64 // index of the last command; 0 after Restore
	kept    []*clusterv1.Checkpoint
	// broken, if it is set, makes Apply record other values than those of the commands.
	broken bool
}

func newHashedTally() *hashedTally { return &hashedTally{version: "1"} }

func (s *hashedTally) Apply(index uint64, cmd *clusterv1.Command) any {
	s.mu.Lock()
	if s.last > 0 && index/4 != s.last/4 {
		s.kept = append(s.kept, &clusterv1.Checkpoint{Version: s.version, Index: s.last, Hash: s.hash()})
		s.kept = s.kept[max(0, len(s.kept)-16):]
	}
	s.last = index
	if s.broken && cmd.Type == 1 {
		s.seen = append(s.seen, 666)
	}
	s.mu.Unlock()
	return s.tally.Apply(index, cmd)
}

func (s *hashedTally) hash() uint64 {
	h := fnv.New64()
	for _, v := range s.seen {
		_ = binary.Write(h, binary.BigEndian, v)
	}
	return h.Sum64()
}

func (s *hashedTally) Restore(r io.Reader) error {
	err := s.tally.Restore(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.kept = 0, nil
	return err
}

func (s *hashedTally) Checkpoints() []*clusterv1.Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.kept)
}

// diverge changes the state of one node only.
func (s *hashedTally) diverge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, 999)
}

func (s *hashedTally) setBroken(broken bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = broken
}

// hashedGroup returns a cluster of three nodes that hash their states, and their state machines.
func hashedGroup(t testing.TB) (*simGroup, map[string]*hashedTally) {
	g := newSimGroup(t, 3)
	states := map[string]*hashedTally{}
	for _, name := range g.names {
		g.startHashed(name, states)
	}
	g.leader()
	g.puts(1, 10)
	time.Sleep(2 * time.Second) // simulated: pings
	return g, states
}

func (g *simGroup) startHashed(name string, states map[string]*hashedTally, change ...func(*cluster.Config)) *simNode {
	states[name] = newHashedTally()
	m := g.start(name, append(change, func(c *cluster.Config) { c.StateMachine = states[name] })...)
	m.sm = &states[name].tally
	return m
}

// found returns how many divergences the nodes have found as leaders.
func (g *simGroup) found() (n uint64) {
	for _, m := range g.nodes {
		n += m.DivergencesFound()
	}
	return n
}

func (g *simGroup) repairs() (n uint64) {
	for _, m := range g.nodes {
		n += m.Repairs()
	}
	return n
}

// Test_Divergence_OfAFollower changes the state of a follower. The leader finds that within two
// checkpoints, and the follower replaces its state without a restart, while commands go on. The new
// state outlives a restart.
func Test_Divergence_OfAFollower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, states := hashedGroup(t)
		lead := g.leader()
		name := g.others(lead.cfg.Name)[0]
		if d := lead.Divergence().String(); d != "" || g.found() != 0 {
			t.Fatalf("equal states are reported as different: %q", d)
		}
		states[name].diverge()
		g.puts(100, 9) // at least two checkpoints
		g.wait("the leader finds the divergence", func() bool { return lead.DivergencesFound() > 0 })
		for v := uint64(200); g.nodes[name].Repairs() == 0 && v < 300; v++ {
			g.put(v)
			time.Sleep(50 * time.Millisecond) // simulated
		}
		g.allEqual(1000)
		g.puts(1001, 20)
		time.Sleep(5 * time.Second) // simulated
		if n, r := g.found(), g.repairs(); n != 1 || r != 1 {
			t.Errorf("%d divergences and %d replacements, want one of each", n, r)
		}
		if err := g.nodes[name].Diverged(); err != nil {
			t.Error(err)
		}
		g.stop(name)
		g.startHashed(name, states)
		g.allEqual(2000)
		if g.found() != 1 {
			t.Error("the divergence came back after a restart")
		}
	})
}

// Test_Divergence_StopsServing checks what a node reports while its state is wrong.
func Test_Divergence_StopsServing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, states := hashedGroup(t)
		lead := g.leader()
		name := g.others(lead.cfg.Name)[0]
		states[name].setBroken(true) // each new state differs again
		var seen bool
		for v := uint64(100); v < 400; v++ {
			g.put(v)
			time.Sleep(50 * time.Millisecond) // simulated
			if err := g.nodes[name].Trouble(); err != nil && strings.Contains(err.Error(), "differs from that of the majority") {
				seen = true
			}
		}
		if !seen {
			t.Error("the node never reported the problem")
		}
		if n := g.nodes[name].Repairs(); n != 3 {
			t.Errorf("the state was replaced %d times within an hour, want 3", n)
		}
		err := g.nodes[name].Diverged()
		if err == nil || !strings.Contains(err.Error(), "differs again after 3 replacements") {
			t.Errorf("the lasting problem is %v", err)
		}
		if d := g.leader().Divergence(); !slices.Equal(d.Wrong, []string{name}) {
			t.Errorf("the leader reports %q", d)
		}
	})
}

// Test_Divergence_OfTheLeader changes the state of the leader. Another node must lead, and the
// former leader replaces its state.
func Test_Divergence_OfTheLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, states := hashedGroup(t)
		name := g.leader().cfg.Name
		states[name].diverge()
		for v := uint64(100); g.nodes[name].Repairs() == 0 && v < 300; v++ {
			g.put(v)
			time.Sleep(50 * time.Millisecond) // simulated
		}
		if g.leader().cfg.Name == name {
			t.Error("the node with the wrong state leads")
		}
		g.allEqual(1000)
		if slices.Contains(g.nodes[name].sm.values(), 999) || g.repairs() != 1 {
			t.Errorf("%d replacements made %v", g.repairs(), g.nodes[name].sm.values())
		}
	})
}

// Test_Divergence_OneAgainstOne leaves two nodes whose states differ. Nobody knows which one is
// right, so both serve on.
func Test_Divergence_OneAgainstOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, states := hashedGroup(t)
		others := g.others(g.leader().cfg.Name)
		g.stop(others[0])
		g.leader()
		time.Sleep(5 * time.Second) // simulated: the stopped node no longer counts
		states[others[1]].diverge()
		g.puts(100, 20)
		lead := g.leader()
		g.wait("the leader reports both", func() bool { return len(lead.Divergence().Unclear) == 2 })
		time.Sleep(5 * time.Second) // simulated
		for _, m := range g.nodes {
			if err := m.Diverged(); err != nil {
				t.Errorf("%s stops serving: %v", m.cfg.Name, err)
			}
		}
		if g.repairs() != 0 {
			t.Error("a state was replaced")
		}
		// The third node shows which state is wrong.
		g.startHashed(others[0], states)
		for v := uint64(200); g.nodes[others[1]].Repairs() == 0 && v < 400; v++ {
			g.put(v)
			time.Sleep(50 * time.Millisecond) // simulated
		}
		g.allEqual(1000)
		g.wait("the alarm ends", func() bool { return g.leader().Divergence().String() == "" })
	})
}

// Test_Divergence_OtherVersions runs nodes whose hashes must not be compared: one of another
// version and one that reports none.
func Test_Divergence_OtherVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newSimGroup(t, 3)
		states := map[string]*hashedTally{}
		g.startHashed("n0", states)
		g.startHashed("n1", states)
		states["n1"].version = "2"
		g.start("n2") // reports no hashes
		g.leader()
		states["n1"].diverge()
		for v := range uint64(100) {
			g.put(v)
			time.Sleep(50 * time.Millisecond) // simulated
		}
		if n := g.found(); n != 0 {
			t.Errorf("%d divergences were found", n)
		}
	})
}
