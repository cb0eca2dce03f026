package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/test/testkit"

	"github.com/image-builder-ha/image-builder/cluster"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/test/knownfault"
)

// slowTally is a tally that takes its time to restore one snapshot, like a large state: once armed,
// it closes reached and waits for resume.
type slowTally struct {
	tally
	armed   atomic.Bool
	reached chan struct{}
	resume  chan struct{}
}

func newSlowTally() *slowTally {
	return &slowTally{reached: make(chan struct{}), resume: make(chan struct{})}
}

func (s *slowTally) Restore(r io.Reader) error {
	if s.armed.Swap(false) {
		close(s.reached)
		<-s.resume
	}
	return s.tally.Restore(r)
}

// Test_KnownFault_LeaderKilledWhileItRestores kills the leader while it restores a snapshot of an
// operator. After its restart all nodes must have the same state: that of the snapshot or that of
// before.
func Test_KnownFault_LeaderKilledWhileItRestores(t *testing.T) {
	knownfault.RunSimulated(t, "part 2: a restore whose leader dies leaves replicas that differ", func(t knownfault.TB) {
		g := newSimGroup(t, 3)
		slow := map[string]*slowTally{}
		for _, name := range g.names {
			slow[name] = newSlowTally()
			g.start(name, func(c *cluster.Config) { c.StateMachine = slow[name] })
		}
		lead := g.leader()
		g.puts(1, 5)
		var backup bytes.Buffer
		if err := lead.SaveSnapshot(&backup); err != nil {
			t.Fatal(err)
		}
		g.puts(10, 15)
		s := slow[lead.cfg.Name]
		s.armed.Store(true)
		var restoring sync.WaitGroup
		restoring.Go(func() { _ = lead.RestoreSnapshot(t.Context(), backup.Bytes()) })
		<-s.reached
		dir := g.kill(lead.cfg.Name)
		t.Cleanup(func() { // before the node is closed: Raft panics during a restore
			close(s.resume)
			restoring.Wait()
			time.Sleep(time.Second) // simulated
		})
		g.puts(100, 10)
		again := g.start(lead.cfg.Name, func(c *cluster.Config) { c.DataDir = dir })
		g.put(200)
		g.wait("the restarted node follows", func() bool { return slices.Contains(again.sm.values(), 200) })
		time.Sleep(10 * time.Second) // simulated
		for _, name := range g.others(lead.cfg.Name) {
			if a, b := again.sm.values(), g.nodes[name].sm.values(); !slices.Equal(a, b) {
				t.Errorf("after the restart the states differ: the former leader has %v at index %d, %s has %v at index %d", a, again.Applied(), name, b, g.nodes[name].Applied())
			}
		}
	})
}

// stopDuringRestore is set in the environment of the process that the next test starts.
const stopDuringRestore = "CLUSTER_TEST_STOP_DURING_RESTORE"

// Test_KnownFault_StopDuringRestore stops a node while it restores a snapshot of an operator. The
// node runs in a process of its own, which must end without a panic.
func Test_KnownFault_StopDuringRestore(t *testing.T) {
	if dir := os.Getenv(stopDuringRestore); dir != "" {
		stopWhileRestoring(t, dir)
		return
	}
	knownfault.Run(t, "part 2: a stop during a restore panics", func(t knownfault.TB) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^Test_KnownFault_StopDuringRestore$")
		cmd.Env = append(os.Environ(), stopDuringRestore+"="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			i := max(0, bytes.Index(out, []byte("panic: ")))
			t.Errorf("the process ends with %v: %s", err, out[i:min(len(out), i+200)])
		}
	})
}

func stopWhileRestoring(t *testing.T, dir string) {
	slow := newSlowTally()
	n := open(t, fastConfig(dir, slow))
	put(t, n, 1)
	var b bytes.Buffer
	if err := n.SaveSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	slow.armed.Store(true)
	var restoring sync.WaitGroup
	restoring.Go(func() { _ = n.RestoreSnapshot(context.Background(), b.Bytes()) })
	<-slow.reached
	restoring.Go(func() {
		defer close(slow.resume)
		testkit.Eventually(t, time.Minute, "Raft is stopped", func() bool { return n.Status().Role == "Shutdown" })
	})
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	restoring.Wait()
}

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
