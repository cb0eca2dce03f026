package cluster_test

import (
	"context"
	"encoding/binary"
	"errors"
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
	"github.com/image-builder-ha/image-builder/cluster/disktest"
	"github.com/image-builder-ha/image-builder/cluster/raftlog"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// fullDisks is a cluster of three nodes whose disks can be full.
type fullDisks struct {
	*simGroup
	full map[string]*atomic.Bool
}

// threeWithDisks returns a cluster with a leader. A full disk also refuses to create files.
func threeWithDisks(t *testing.T, change ...func(*cluster.Config)) *fullDisks {
	t.Helper()
	g := &fullDisks{simGroup: newSimGroup(t, 3), full: map[string]*atomic.Bool{}}
	for _, name := range g.names {
		full := &atomic.Bool{}
		g.full[name] = full
		d := disktest.NewDisk()
		d.Room = func() uint64 {
			if full.Load() {
				return 4 << 10
			}
			return 1 << 30
		}
		d.Fail = func(op string) error {
			if full.Load() && op == "create" {
				return syscall.ENOSPC
			}
			return nil
		}
		g.start(name, func(c *cluster.Config) {
			c.Storage = &cluster.Storage{Disk: d.Mount(), Snapshots: clustertest.NewSnapshots()}
			for _, f := range change {
				f(c)
			}
		})
	}
	g.leader()
	return g
}

// propose proposes a value through a node, for at most limit. It repeats the value if the leader
// changes meanwhile.
func (g *fullDisks) propose(m *simNode, v uint64, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(g.t.Context(), limit)
	defer cancel()
	for {
		_, err := m.Propose(ctx, value(v))
		if !errors.Is(err, cluster.ErrOutcomeUnknown) || ctx.Err() != nil {
			return err
		}
	}
}

// Test_FullDisk_LeaderHandsOver fills the disk of the leader. Another node must lead soon, and the
// node with the full disk must not lead again while it is full, whatever happens to the leader.
func Test_FullDisk_LeaderHandsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeWithDisks(t)
		g.puts(1, 3)
		former := g.leader()
		time.Sleep(time.Second) // simulated: the leader has pinged the others
		g.full[former.cfg.Name].Store(true)
		if err := g.propose(g.nodes[g.others(former.cfg.Name)[0]], 10, 2*time.Second); err != nil {
			t.Fatalf("the leader's disk is full, the others have room: %v", err)
		}
		lead := g.leader()
		if lead.cfg.Name == former.cfg.Name {
			t.Fatal("the node with the full disk still leads")
		}
		if err := former.Trouble(); !errors.Is(err, raftlog.ErrNoRoom) {
			t.Errorf("the health problem of the node with the full disk: %v", err)
		}
		g.stop(lead.cfg.Name)
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) { // simulated
			if r := former.Status().Role; r == "Leader" {
				t.Fatal("the node with the full disk leads again")
			}
		}
		g.full[former.cfg.Name].Store(false)
		third := g.nodes[g.others(lead.cfg.Name, former.cfg.Name)[0]]
		if err := g.propose(third, 11, 15*time.Second); err != nil {
			t.Errorf("there is room again: %v", err)
		}
	})
}

// Test_FullDisk_DoesNotStand fills the disk of a follower that has all entries. It must not become
// the leader: neither if the leader hands over to it, nor if the leader ends.
func Test_FullDisk_DoesNotStand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeWithDisks(t)
		g.puts(1, 3)
		lead := g.leader()
		full := g.nodes[g.others(lead.cfg.Name)[0]] // the first in rank
		time.Sleep(time.Second)                     // simulated: it has all entries
		g.full[full.cfg.Name].Store(true)
		term := lead.Status().Term
		if err := lead.TransferLeadership(t.Context(), full.cfg.Name); err == nil {
			t.Error("the node with the full disk takes leadership over")
		}
		time.Sleep(2 * time.Second) // simulated
		if s := g.leader().Status(); s.Term != term {
			t.Errorf("the node with the full disk has stood for election: term %d, before %d", s.Term, term)
		}
		g.stop(lead.cfg.Name)
		other := g.nodes[g.others(lead.cfg.Name, full.cfg.Name)[0]]
		for deadline := time.Now().Add(5 * time.Second); other.Status().Role != "Leader"; time.Sleep(10 * time.Millisecond) { // simulated
			if full.Status().Role == "Leader" || time.Now().After(deadline) {
				t.Fatalf("5 s after the end of the leader: the node with room is %s, the other %s", other.Status().Role, full.Status().Role)
			}
		}
		g.full[full.cfg.Name].Store(false)
		if err := g.propose(other, 11, 5*time.Second); err != nil {
			t.Errorf("5 s after there is room again: %v", err)
		}
	})
}

// Test_FullDisk_AllTogether fills the disks of all nodes. Commands must be refused with the reason,
// nobody else can lead, and commands must be accepted within 5 s once there is room.
func Test_FullDisk_AllTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeWithDisks(t)
		g.puts(1, 3)
		for _, f := range g.full {
			f.Store(true)
		}
		term := g.leader().Status().Term
		for _, name := range g.names {
			err := g.propose(g.nodes[name], 10, 2*time.Second)
			for try := 0; try < 5 && errors.Is(err, cluster.ErrOutcomeUnknown); try++ { // the time was over during a call
				err = g.propose(g.nodes[name], 10, 2*time.Second)
			}
			if !errors.Is(err, raftlog.ErrNoRoom) || !errors.Is(err, cluster.ErrNoLeader) {
				t.Errorf("a command to %s on full disks: %v", name, err)
				continue
			}
			for _, text := range []string{"node " + g.leader().cfg.Name + " leads", "nearly full", "make room"} {
				if !strings.Contains(err.Error(), text) || strings.Contains(err.Error(), "no leader") {
					t.Errorf("a command to %s on full disks: %v; want %q and not %q", name, err, text, "no leader")
				}
			}
		}
		time.Sleep(time.Minute) // simulated
		if got := g.leader().Status().Term; got != term {
			t.Errorf("the leader has changed although no disk has room: term %d, before %d", got, term)
		}
		for _, f := range g.full {
			f.Store(false)
		}
		if err := g.propose(g.nodes[g.names[0]], 20, 5*time.Second); err != nil {
			t.Fatalf("5 s after there is room again: %v", err)
		}
		g.wait("all nodes have the value", func() bool {
			return !slices.ContainsFunc(g.names, func(n string) bool { return !slices.Contains(g.nodes[n].sm.values(), 20) })
		})
		for _, name := range g.names {
			if got := g.nodes[name].sm.values(); slices.Contains(got, 10) {
				t.Errorf("%s shows a command that was refused: %v", name, got)
			}
		}
	})
}

// Test_FullDisk_FollowersOnly fills the disks of both followers. Commands cannot be committed once
// the last files of their logs are full, and must be within 5 s once there is room.
func Test_FullDisk_FollowersOnly(t *testing.T) {
	durations := []time.Duration{5 * time.Second, 11 * time.Second, 23 * time.Second}
	if testkit.Race { // a simulated second takes more than one
		durations = durations[1:2]
	}
	for _, full := range durations {
		synctest.Test(t, func(t *testing.T) {
			g := threeWithDisks(t)
			g.puts(1, 3)
			lead := g.leader()
			for _, name := range g.others(lead.cfg.Name) {
				g.full[name].Store(true)
			}
			if accepted := g.fillLogs(lead, full); accepted > 24 { // a file takes the last write as a whole, and the two differ
				t.Fatalf("the disks of a majority are full, but %d commands of 64 KiB are committed to files of 1 MiB", accepted)
			}
			for _, f := range g.full {
				f.Store(false)
			}
			begin := time.Now()
			if err := g.propose(lead, 20, 20*time.Second); err != nil || time.Since(begin) > 5*time.Second {
				t.Errorf("full for %s: a command takes %s once there is room again: %v", full, time.Since(begin), err)
			}
		})
	}
}

// fillLogs proposes commands of 64 KiB until one is not committed within limit. It returns how many
// were committed.
func (g *fullDisks) fillLogs(m *simNode, limit time.Duration) (accepted int) {
	for v := uint64(100); accepted < 100; v++ {
		ctx, cancel := context.WithTimeout(g.t.Context(), limit)
		_, err := m.Propose(ctx, &clusterv1.Command{Type: 1, Payload: append(binary.BigEndian.AppendUint64(nil, v), make([]byte, 64<<10)...)})
		cancel()
		if err != nil {
			break
		}
		accepted++
	}
	return accepted
}

// Test_FullDisk_MembershipIsRefused changes the members while all disks are full. The change must be
// refused with the reason, and the leader must go on to serve reads.
func Test_FullDisk_MembershipIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeWithDisks(t)
		g.puts(1, 3)
		for _, f := range g.full {
			f.Store(true)
		}
		lead := g.leader()
		term, gone := lead.Status().Term, g.others(lead.cfg.Name)[0]
		g.stop(gone)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := lead.Remove(ctx, gone); !errors.Is(err, raftlog.ErrNoRoom) {
			t.Errorf("the removal of a member on full disks: %v", err)
		}
		time.Sleep(20 * time.Second) // simulated
		g.mustRead(lead)
		if got := lead.Status().Term; got != term || !lead.Leads() {
			t.Errorf("the leader has given up: term %d, before %d", got, term)
		}
	})
}

// Test_FullDisk_AtOnce fills all disks while commands are in flight: the room ends between the check
// and the write. The leader must go on to serve reads.
func Test_FullDisk_AtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newSimGroup(t, 3)
		var armed, full atomic.Bool
		for _, name := range g.names {
			d := disktest.NewDisk()
			d.Room = func() uint64 {
				if full.Load() {
					return 4 << 10
				}
				return 1 << 30
			}
			d.Fail = func(op string) error {
				if op == "write" && armed.Load() {
					full.Store(true) // commands that wait for this write have passed the check
				}
				return nil
			}
			g.start(name, func(c *cluster.Config) {
				c.Storage = &cluster.Storage{Disk: d.Mount(), Snapshots: clustertest.NewSnapshots()}
			})
		}
		lead := g.leader()
		g.puts(1, 3)
		term := lead.Status().Term
		for range 5 {
			armed.Store(true)
			var wg sync.WaitGroup
			for v := range uint64(50) {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
					defer cancel()
					_, _ = lead.Propose(ctx, value(10+v))
				})
			}
			wg.Wait()
			time.Sleep(5 * time.Second) // simulated
			g.mustRead(lead)
			if got := lead.Status().Term; got != term {
				t.Fatalf("the leader has given up: term %d, before %d", got, term)
			}
			armed.Store(false)
			full.Store(false)
		}
	})
}

// Test_FullDisk_NoMajority fills the disks of a follower and of the leader. The leader must go on to
// serve reads: the third node could not commit a command either.
func Test_FullDisk_NoMajority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeWithDisks(t)
		g.puts(1, 3)
		lead := g.leader()
		term, full := lead.Status().Term, g.others(lead.cfg.Name)[0]
		g.full[full].Store(true)
		g.puts(10, 3)
		time.Sleep(2 * time.Second) // simulated
		g.full[lead.cfg.Name].Store(true)
		time.Sleep(30 * time.Second) // simulated
		g.mustRead(lead)
		if got := lead.Status().Term; got != term || !lead.Leads() {
			t.Errorf("the leader has given up: term %d, before %d", got, term)
		}
		g.full[full].Store(false)
		if err := g.propose(lead, 20, 5*time.Second); err != nil {
			t.Errorf("5 s after a majority has room: %v", err)
		}
	})
}

// Test_FullDisk_OtherDisks gives the followers a disk for logs of builds that is full. One of them must
// still take leadership over from a leader whose own disk is full.
func Test_FullDisk_OtherDisks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeWithDisks(t, func(c *cluster.Config) {
			c.Report = func(r *clusterv1.PingResponse) { r.RefusesBuilds = true }
		})
		g.puts(1, 3)
		former := g.leader()
		time.Sleep(time.Second) // simulated
		g.full[former.cfg.Name].Store(true)
		if err := g.propose(g.nodes[g.others(former.cfg.Name)[0]], 10, 2*time.Second); err != nil {
			t.Fatalf("the leader's disk is full, the others have room: %v", err)
		}
	})
}

// mustRead asks a node for a read index.
func (g *simGroup) mustRead(m *simNode) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(g.t.Context(), 5*time.Second)
	defer cancel()
	if _, err := m.ReadIndex(ctx); err != nil {
		g.t.Errorf("a read on %s: %v", m.cfg.Name, err)
	}
}
