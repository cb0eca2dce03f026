package cluster_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/test/knownfault"
)

// timeStandsStill makes a node with a clock that is ahead the leader, corrects its clock, and makes
// the former leader lead again. The time of the term must go on although the state is ahead of all
// clocks. down stops the third node before.
func timeStandsStill(t testing.TB, ahead time.Duration, down bool) {
	t.Helper()
	var mu sync.Mutex
	offset := map[string]time.Duration{}
	g := threeSimulated(t, func(c *cluster.Config) {
		name := c.Name
		c.Now = func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return time.Now().Add(offset[name])
		}
	})
	set := func(name string, d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		offset[name] = d
	}
	transfer := func(to string) {
		t.Helper()
		if err := g.leader().TransferLeadership(t.Context(), to); err != nil {
			t.Fatal(err)
		}
		g.wait(to+" leads", g.nodes[to].Leads)
	}
	time.Sleep(time.Minute) // simulated
	lead := g.leader().cfg.Name
	other := g.others(lead)
	if down {
		g.stop(other[1])
		time.Sleep(10 * time.Second) // simulated
	}
	set(other[0], ahead)
	transfer(other[0])
	g.put(1)
	set(other[0], 0)
	transfer(lead)
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

func Test_KnownFault_TimeStandsStillAfterASmallSkew(t *testing.T) {
	knownfault.RunSimulated(t, "part 2: time stands still under a leader behind the time of the state", func(t knownfault.TB) {
		timeStandsStill(t, 4*time.Second, false) // less than MaxClockSkew
	})
}

// With two of three nodes nobody can know which clock is wrong, so any skew is accepted.
func Test_KnownFault_TimeStandsStillAfterALargeSkew(t *testing.T) {
	knownfault.RunSimulated(t, "part 2: time stands still for hours if one of three nodes is down", func(t knownfault.TB) {
		timeStandsStill(t, 2*time.Hour, true)
	})
}

// Test_KnownFault_OneSlowWriteOfAnOnlyVoter lets one write of the only voter take longer than
// Config.SlowDisk. Once the write has ended, a further node must get the state.
func Test_KnownFault_OneSlowWriteOfAnOnlyVoter(t *testing.T) {
	knownfault.RunSimulated(t, "part 2: an only voter stays silent after one slow write", func(t knownfault.TB) {
		g := newSimGroup(t, 2)
		n0 := g.start("n0", func(c *cluster.Config) { c.Expect = 1 })
		g.puts(1, 5)
		n0.SetWriteStart(time.Now())
		time.Sleep(5 * time.Second) // simulated
		n0.SetWriteStart(time.Time{})
		g.puts(10, 5)
		time.Sleep(10 * time.Second) // simulated
		if err := n0.Trouble(); err != nil || !n0.Leads() {
			t.Fatalf("n0 leads: %v, health problem: %v", n0.Leads(), err)
		}
		n1 := g.start("n1", func(c *cluster.Config) { c.Expect = 0 })
		time.Sleep(time.Minute) // simulated
		if n := len(n1.sm.values()); n != 10 {
			t.Errorf("after a minute the new node has %d of 10 values", n)
		}
	})
}

// Test_KnownFault_PrepareRefuses lets the leader refuse a command, so that it is not proposed. No
// node may report an unknown outcome.
func Test_KnownFault_PrepareRefuses(t *testing.T) {
	knownfault.RunSimulated(t, "part 2: a definite refusal is reported as an unknown outcome", func(t knownfault.TB) {
		g := threeSimulated(t, func(c *cluster.Config) {
			c.Prepare = func(_ context.Context, cmd *clusterv1.Command) error {
				if cmd.Type == 1 {
					return errors.New("no sealing key is held by all nodes")
				}
				return nil
			}
		})
		for _, name := range g.names {
			m := g.nodes[name]
			if _, err := m.Propose(t.Context(), value(1)); err == nil || errors.Is(err, cluster.ErrOutcomeUnknown) {
				t.Errorf("a node that leads (%v) reports for a refused command: %v", m.Leads(), err)
			}
		}
	})
}
