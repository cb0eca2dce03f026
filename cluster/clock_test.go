package cluster_test

import (
	"bytes"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
)

// wallClocks are the clocks of simulated machines. Each is ahead of the simulated time.
type wallClocks struct {
	mu    sync.Mutex
	ahead map[string]time.Duration // by node
}

func (w *wallClocks) use(c *cluster.Config) {
	name := c.Name
	c.Now = func() time.Time {
		w.mu.Lock()
		defer w.mu.Unlock()
		return time.Now().Add(w.ahead[name])
	}
}

func (w *wallClocks) set(d time.Duration, names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ahead == nil {
		w.ahead = map[string]time.Duration{}
	}
	for _, name := range names {
		w.ahead[name] = d
	}
}

// transfer makes a node the leader.
func (g *simGroup) transfer(to string) {
	g.t.Helper()
	if err := g.leader().TransferLeadership(g.t.Context(), to); err != nil {
		g.t.Fatal(err)
	}
	g.wait(to+" leads", g.nodes[to].Leads)
}

// timeAhead commits a value and returns how far the time of the state is ahead of the simulated
// time.
func (g *simGroup) timeAhead(v uint64) time.Duration {
	g.t.Helper()
	g.put(v)
	return time.Until(time.Unix(0, g.leader().sm.LastTime()))
}

// checkTimeGoesOn makes a node with a clock that is ahead the leader, corrects its clock, and makes
// the former leader lead again. The time of the term must go on although the state may be ahead of
// all clocks. down stops the third node before.
func checkTimeGoesOn(t *testing.T, ahead time.Duration, down bool) {
	t.Helper()
	var clocks wallClocks
	g := threeSimulated(t, clocks.use)
	time.Sleep(time.Minute) // simulated
	lead := g.leader().cfg.Name
	other := g.others(lead)
	if down {
		g.stop(other[1])
		time.Sleep(10 * time.Second) // simulated
	}
	clocks.set(ahead, other[0])
	g.transfer(other[0])
	g.put(1)
	clocks.set(0, other[0])
	g.transfer(lead)
	n := g.nodes[lead]
	stamp := func() int64 {
		t.Helper()
		g.put(2)
		return n.sm.LastTime()
	}
	first := stamp()
	time.Sleep(time.Second) // simulated
	if d := time.Duration(stamp() - first); d < 900*time.Millisecond {
		t.Errorf("the time of the state goes on by %s in a second", d)
	}
}

func Test_Clock_GoesOnAfterASmallSkew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { checkTimeGoesOn(t, 4*time.Second, false) }) // less than MaxClockSkew
}

func Test_Clock_GoesOnAfterALargeSkewOfTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { checkTimeGoesOn(t, 2*time.Hour, true) })
}

// Test_Clock_TwoClocksThatDisagree stops one of three nodes, and makes a node the leader whose clock
// differs from the only other one. Nobody can know which clock is right, so the time of the state
// must not get ahead by the greater one, and must go on.
func Test_Clock_TwoClocksThatDisagree(t *testing.T) {
	for _, ahead := range []time.Duration{2 * time.Hour, -2 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			var clocks wallClocks
			g := threeSimulated(t, clocks.use)
			g.put(1)
			lead := g.leader().cfg.Name
			other := g.others(lead)
			time.Sleep(time.Minute) // simulated
			g.stop(other[1])
			time.Sleep(10 * time.Second) // simulated
			clocks.set(ahead, other[0])
			g.transfer(other[0])
			first := g.timeAhead(2)
			time.Sleep(time.Minute) // simulated
			second := g.timeAhead(3)
			if first > time.Second || second > time.Second {
				t.Errorf("the other clock is %s ahead: the time of the state is %s ahead, and a minute later %s", ahead, first, second)
			}
			if second-first < -10*time.Second {
				t.Errorf("the other clock is %s ahead: the time of the state has gone on by %s in a minute", ahead, time.Minute+second-first)
			}
		})
	}
}

// Test_Clock_AllMachinesArePaused lets all clocks jump while the leader leads on, as after a pause of
// all virtual machines. The time of the state must not lag for the rest of the term.
func Test_Clock_AllMachinesArePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clocks wallClocks
		g := threeSimulated(t, clocks.use)
		time.Sleep(time.Minute) // simulated
		lead := g.leader()
		term := lead.Status().Term
		clocks.set(time.Hour, g.names...)
		time.Sleep(5 * time.Second) // simulated
		if d := g.timeAhead(1) - time.Hour; d.Abs() > time.Second {
			t.Errorf("the time of the state is %s ahead of the clocks", d)
		}
		if now := lead.Status().Term; !lead.Leads() || now != term {
			t.Errorf("the node leads: %v, in term %d, it led in term %d", lead.Leads(), now, term)
		}
	})
}

// Test_Clock_TheLeadersClockJumps lets the clock of the leader alone jump. Another node must lead
// soon, and the time of the state must not follow the jump.
func Test_Clock_TheLeadersClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{2 * time.Hour, -2 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			var clocks wallClocks
			g := threeSimulated(t, clocks.use)
			time.Sleep(time.Minute) // simulated
			lead := g.leader().cfg.Name
			clocks.set(jump, lead)
			for v := range uint64(100) {
				if d := g.timeAhead(v); d.Abs() > time.Second {
					t.Fatalf("after a jump by %s the time of the state is %s ahead", jump, d)
				}
				time.Sleep(100 * time.Millisecond) // simulated
			}
			if g.nodes[lead].Leads() {
				t.Errorf("after a jump by %s the node leads still", jump)
			}
		})
	}
}

// Test_Clock_RestoreOfALaterSnapshot restores a snapshot whose time is ahead of all clocks. The time
// must go on.
func Test_Clock_RestoreOfALaterSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var clocks wallClocks
		g := newSimGroup(t, 1)
		n := g.start("n0", clocks.use)
		g.put(1)
		n.sm.mu.Lock()
		n.sm.time += int64(time.Hour)
		n.sm.mu.Unlock()
		var later bytes.Buffer
		if err := n.SaveSnapshot(t.Context(), &later); err != nil {
			t.Fatal(err)
		}
		n.sm.mu.Lock()
		n.sm.time -= int64(time.Hour)
		n.sm.mu.Unlock()
		if err := n.RestoreSnapshot(t.Context(), later.Bytes()); err != nil {
			t.Fatal(err)
		}
		first := g.timeAhead(2)
		time.Sleep(time.Second) // simulated
		if second := g.timeAhead(3); first < 50*time.Minute || second-first < -100*time.Millisecond {
			t.Errorf("the time of the state is %s ahead, and a second later %s", first, second)
		}
	})
}
