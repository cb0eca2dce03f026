package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/clustertest"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/test/testkit"
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

// savedState returns a snapshot of the node.
func savedState(t testing.TB, n *cluster.Node) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := n.SaveSnapshot(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// restoreFilesOf returns the names of the snapshots of restores in a data directory.
func restoreFilesOf(t testing.TB, dir string) (names []string) {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(dir, "restore"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

// allEqual waits until all nodes have a value, and checks that their states are equal.
func (g *simGroup) allEqual(last uint64) []uint64 {
	g.t.Helper()
	g.put(last)
	var want []uint64
	for _, m := range g.nodes {
		g.wait(m.cfg.Name+" has the last value", func() bool { return slices.Contains(m.sm.values(), last) })
		if want == nil {
			want = m.sm.values()
		}
	}
	for _, m := range g.nodes {
		if got := m.sm.values(); !slices.Equal(got, want) {
			g.t.Errorf("the states differ: %s has %v, another node has %v", m.cfg.Name, got, want)
		}
	}
	return want
}

// Test_Restore_LeaderDies kills the leader at each step of a restore. The others go on, and the
// leader starts again. Afterwards all nodes have the same state: that of before, or the restored
// one.
func Test_Restore_LeaderDies(t *testing.T) {
	before := append(values(1, 5), values(10, 15)...)
	for _, c := range []struct {
		name string
		// arrange makes the node call kill in the step.
		arrange  func(g *simGroup, lead *simNode, slow map[string]*slowTally, kill func())
		restored bool
	}{
		{"the leader stores", func(_ *simGroup, lead *simNode, _ map[string]*slowTally, kill func()) {
			lead.BeforeRestoreWrite(func() error { kill(); return nil })
		}, false},
		{"a follower stores", func(g *simGroup, lead *simNode, _ map[string]*slowTally, kill func()) {
			g.nodes[g.others(lead.cfg.Name)[0]].BeforeRestoreWrite(func() error { kill(); return nil })
		}, false},
		{"all have stored", func(_ *simGroup, lead *simNode, _ map[string]*slowTally, kill func()) {
			lead.BeforeRestore(kill)
		}, false},
		{"only the log of the leader has the command", func(g *simGroup, lead *simNode, _ map[string]*slowTally, kill func()) {
			lead.BeforeRestore(func() {
				g.hub.Part([]string{lead.cfg.Name}, g.others(lead.cfg.Name))
				time.AfterFunc(100*time.Millisecond, kill)
			})
		}, false},
		{"the leader applies", func(_ *simGroup, lead *simNode, slow map[string]*slowTally, kill func()) {
			s := slow[lead.cfg.Name]
			s.armed.Store(true)
			go func() { <-s.reached; kill() }()
		}, true},
		{"a follower applies", func(g *simGroup, lead *simNode, slow map[string]*slowTally, kill func()) {
			s := slow[g.others(lead.cfg.Name)[0]]
			s.armed.Store(true)
			go func() { <-s.reached; kill(); close(s.resume) }()
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newSimGroup(t, 3)
				slow := map[string]*slowTally{}
				for _, name := range g.names {
					slow[name] = newSlowTally()
					g.start(name, func(c *cluster.Config) { c.StateMachine = slow[name] })
				}
				lead := g.leader()
				name := lead.cfg.Name
				g.puts(1, 5)
				backup := savedState(t, lead.Node)
				g.puts(10, 15)
				time.Sleep(time.Second) // simulated: the leader hears the others
				killed := make(chan string, 1)
				resume := sync.OnceFunc(func() { close(slow[name].resume) })
				t.Cleanup(resume) // the node must be able to end
				c.arrange(g, lead, slow, sync.OnceFunc(func() { killed <- g.kill(name) }))
				restored := make(chan error, 1)
				go func() { restored <- lead.RestoreSnapshot(t.Context(), backup) }()
				dir := <-killed
				g.hub.Heal()
				g.puts(100, 10)
				g.start(name, func(c *cluster.Config) { c.DataDir = dir })
				want := append(slices.Clone(before), append(values(100, 10), 200)...)
				if c.restored {
					want = append(values(1, 5), append(values(100, 10), 200)...)
				}
				if got := g.allEqual(200); !slices.Equal(got, want) {
					t.Errorf("the state is %v, want %v", got, want)
				}
				resume()
				_ = lead.Close() // ends the restore of the killed process
				if !c.restored {
					if err := <-restored; err == nil {
						t.Error("the restore is reported as done")
					}
				}
			})
		})
	}
}

func values(from uint64, count int) (out []uint64) {
	for i := range count {
		out = append(out, from+uint64(i))
	}
	return out
}

// Test_Restore_ReplayAndCleanup restarts all nodes after a restore, so that they apply the command
// again, while one node that was down during the restore, and a new one, apply it for the first
// time. Once the logs no longer have the command, the snapshot is removed.
func Test_Restore_ReplayAndCleanup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		short := func(c *cluster.Config) {
			c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = 20, 5, time.Second
		}
		g := newSimGroup(t, 4)
		three := func(c *cluster.Config) { c.Expect = 3 }
		for _, name := range g.names[:3] {
			g.start(name, three)
		}
		lead := g.leader()
		g.puts(1, 5)
		backup := savedState(t, lead.Node)
		g.puts(10, 5)
		down := g.others(lead.cfg.Name, "n3")[0]
		g.stop(down)
		time.Sleep(10 * time.Second) // simulated
		if err := g.leader().RestoreSnapshot(t.Context(), backup); err != nil {
			t.Fatal(err)
		}
		g.put(20)
		g.start(down, three)
		g.start("n3", func(c *cluster.Config) { c.Expect = 0 })
		want := append(values(1, 5), 20, 21)
		if got := g.allEqual(21); !slices.Equal(got, want) {
			t.Errorf("after the restore the state is %v, want %v", got, want)
		}
		for _, name := range g.names {
			if n := len(restoreFilesOf(t, filepath.Join(g.dir, name))); n != 1 {
				t.Errorf("%s holds %d snapshots of restores", name, n)
			}
			g.stop(name)
		}
		for _, name := range g.names {
			g.start(name, short)
		}
		if got := g.allEqual(22); !slices.Equal(got, append(want, 22)) {
			t.Errorf("after the restart the state is %v, want %v", got, append(want, 22))
		}
		g.puts(1000, 60)
		time.Sleep(time.Minute) // simulated
		for _, name := range g.names {
			if files := restoreFilesOf(t, filepath.Join(g.dir, name)); len(files) != 0 {
				t.Errorf("the log of %s no longer has the command, but the directory has %v", name, files)
			}
		}
	})
}

// Test_Restore_MissingSnapshotStopsTheNode removes the snapshot that a command of the log names. The
// node must not go on without it.
func Test_Restore_MissingSnapshotStopsTheNode(t *testing.T) {
	dir := t.TempDir()
	n := open(t, fastConfig(dir, &tally{}))
	put(t, n, 1)
	backup := savedState(t, n)
	put(t, n, 2)
	if err := n.RestoreSnapshot(t.Context(), backup); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(dir, "restore")); err != nil {
		t.Fatal(err)
	}
	sm := &tally{}
	n = open(t, fastConfig(dir, sm))
	select {
	case err := <-n.Fatal():
		if !strings.Contains(err.Error(), "which is not in") {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Errorf("the node goes on with the state %v", sm.values())
	}
}

// Test_Restore_StateWithGreaterIndexes restores a snapshot of a cluster whose log is longer than
// that of this one. Indexes never go back, neither after a restart nor on a new member.
func Test_Restore_StateWithGreaterIndexes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from := newSimGroup(t, 1)
		from.start("n0")
		from.puts(1, 200)
		long := from.nodes["n0"].Applied()
		backup := savedState(t, from.nodes["n0"].Node)
		from.stop("n0")

		g := newSimGroup(t, 4)
		three := func(c *cluster.Config) {
			c.Expect, c.SnapshotThreshold, c.TrailingLogs, c.SnapshotInterval = 3, 20, 5, time.Second
		}
		for _, name := range g.names[:3] {
			g.start(name, three)
		}
		time.Sleep(time.Second) // simulated
		check := func(when string) {
			t.Helper()
			for _, name := range g.names {
				m := g.nodes[name]
				if m == nil {
					continue
				}
				index, err := m.ReadIndex(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				if err := m.WaitApplied(ctx, index); err != nil || index <= long {
					t.Errorf("%s: the read index of %s is %d, the restored state is at %d: %v", when, name, index, long, err)
				}
				cancel()
			}
		}
		if err := g.leader().RestoreSnapshot(t.Context(), backup); err != nil {
			t.Fatal(err)
		}
		check("after the restore")
		lead := g.leader()
		res, err := lead.Propose(t.Context(), value(1000))
		if err != nil || res.Index <= long+1 || res.Index > long+10 || res.Index > lead.Applied() {
			t.Errorf("the next command has index %d (%v), the restored state is at %d", res.Index, err, long)
		}
		g.puts(2000, 100)
		time.Sleep(2 * time.Minute) // simulated: the nodes take snapshots, and shorten their logs
		g.start("n3", func(c *cluster.Config) { c.Expect = 0 })
		g.allEqual(3000)
		check("on a new member")
		for _, name := range g.names {
			g.stop(name)
		}
		for _, name := range g.names {
			g.start(name, three)
		}
		g.allEqual(3001)
		check("after a restart")
		var at uint64
		for _, m := range g.nodes {
			if at == 0 {
				at = m.Applied()
			}
			if got := m.Applied(); got != at {
				t.Errorf("%s is at index %d, another node at %d", m.cfg.Name, got, at)
			}
		}
	})
}

// Test_Restore_Refusals checks that a restore that cannot be made changes nothing and leaves nothing
// on the disks.
func Test_Restore_Refusals(t *testing.T) {
	for _, c := range []struct {
		name    string
		arrange func(g *simGroup, lead *simNode)
		want    string
	}{
		{"the level of older voters", func(_ *simGroup, lead *simNode) {}, "a restore needs feature level 5, the cluster is at 4: start this version"},
		{"the disk of a follower is full", func(g *simGroup, lead *simNode) {
			g.nodes[g.others(lead.cfg.Name)[0]].BeforeRestoreWrite(func() error { return syscall.ENOSPC })
		}, "no space left on device"},
		{"the disk of the leader is full", func(_ *simGroup, lead *simNode) {
			lead.BeforeRestoreWrite(func() error { return syscall.ENOSPC })
		}, "no space left on device"},
		{"no majority", func(g *simGroup, lead *simNode) {
			g.hub.Part([]string{lead.cfg.Name}, g.others(lead.cfg.Name))
		}, "does not store the snapshot"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var level atomic.Uint32
				level.Store(5)
				g := threeSimulated(t, func(c *cluster.Config) {
					c.FeatureLevel, c.RestoreLevel, c.CommittedLevel = 5, 5, level.Load
				})
				if strings.HasPrefix(c.name, "the level") {
					level.Store(4)
				}
				lead := g.leader()
				g.puts(1, 5)
				backup := savedState(t, lead.Node)
				g.puts(10, 5)
				time.Sleep(time.Second) // simulated
				c.arrange(g, lead)
				err := lead.RestoreSnapshot(t.Context(), backup)
				if !errors.Is(err, cluster.ErrNotRestored) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("the restore: %v, want %q", err, c.want)
				}
				g.hub.Heal()
				time.Sleep(2 * time.Minute) // simulated
				want := append(values(1, 5), append(values(10, 5), 100)...)
				if got := g.allEqual(100); !slices.Equal(got, want) {
					t.Errorf("the state is %v, want %v", got, want)
				}
				for _, name := range g.names {
					if files := restoreFilesOf(t, filepath.Join(g.dir, name)); len(files) != 0 {
						t.Errorf("%s has %v", name, files)
					}
				}
			})
		})
	}
}

// stopDuringRestore is set in the environment of the process that the next test starts.
const stopDuringRestore = "CLUSTER_TEST_STOP_DURING_RESTORE"

// Test_Restore_Stop stops a node while it restores a snapshot of an operator. The
// node runs in a process of its own, which must end without a panic.
func Test_Restore_Stop(t *testing.T) {
	if dir := os.Getenv(stopDuringRestore); dir != "" {
		stopWhileRestoring(t, dir)
		return
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^Test_Restore_Stop$")
	cmd.Env = append(os.Environ(), stopDuringRestore+"="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		i := max(0, bytes.Index(out, []byte("panic: ")))
		t.Errorf("the process ends with %v: %s", err, out[i:min(len(out), i+200)])
	}
}

func stopWhileRestoring(t *testing.T, dir string) {
	slow := newSlowTally()
	n := open(t, fastConfig(dir, slow))
	put(t, n, 1)
	var b bytes.Buffer
	if err := n.SaveSnapshot(t.Context(), &b); err != nil {
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

// Test_Restore_TheSameTwice restores one snapshot twice, which has one file, and starts all nodes
// again.
func Test_Restore_TheSameTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t)
		g.puts(1, 5)
		backup := savedState(t, g.leader().Node)
		for i := range uint64(2) {
			g.put(10 + i)
			time.Sleep(time.Second) // simulated
			if err := g.leader().RestoreSnapshot(t.Context(), backup); err != nil {
				t.Fatal(err)
			}
		}
		g.put(20)
		for _, name := range g.names {
			g.stop(name)
		}
		for _, name := range g.names {
			g.start(name)
		}
		if got, want := g.allEqual(21), append(values(1, 5), 20, 21); !slices.Equal(got, want) {
			t.Errorf("the state is %v, want %v", got, want)
		}
	})
}

// Test_Restore_StopWhileTheSnapshotIsMissing stops a node that waits for the snapshot that it has to
// apply, while the leader cannot send its state. The stop is clean, and after the next start the node
// applies the command.
func Test_Restore_StopWhileTheSnapshotIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t, func(c *cluster.Config) {
			c.Network.(*clustertest.Network).Missing = []string{clusterv1.Restore_GetState_FullMethodName}
		})
		g.puts(1, 5)
		backup := savedState(t, g.leader().Node)
		g.put(10)
		lead := g.leader().cfg.Name
		waits := g.others(lead)[0]
		g.stop(waits)
		time.Sleep(10 * time.Second) // simulated
		if err := g.leader().RestoreSnapshot(t.Context(), backup); err != nil {
			t.Fatal(err)
		}
		held := map[string]string{} // the directories of those that hold the snapshot, moved away
		for _, name := range g.others(waits) {
			from := filepath.Join(g.dir, name, "restore")
			held[from] = from + "-away"
			if err := os.Rename(from, held[from]); err != nil {
				t.Fatal(err)
			}
		}
		m := g.start(waits)
		time.Sleep(5 * time.Second) // simulated
		if got := m.sm.values(); !slices.Equal(got, append(values(1, 5), 10)) {
			t.Errorf("without the snapshot the state is %v", got)
		}
		g.stop(waits)
		select {
		case err := <-m.Fatal():
			t.Errorf("the stop is reported as a failure: %v", err)
		default:
		}
		for from, to := range held {
			if err := os.Rename(to, from); err != nil {
				t.Fatal(err)
			}
		}
		g.start(waits)
		if got, want := g.allEqual(20), append(values(1, 5), 20); !slices.Equal(got, want) {
			t.Errorf("the state is %v, want %v", got, want)
		}
	})
}
