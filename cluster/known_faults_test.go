package cluster_test

import (
	"bytes"
	"context"
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
