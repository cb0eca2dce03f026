//go:build faults

package cluster_test

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
)

// loopDisk is an ext4 file system on a loop device. A copy of its image is what a disk holds after
// a power loss: everything that was synced, and whatever else the kernel has written back.
type loopDisk struct {
	t          *testing.T
	image, dir string
}

// newLoopDisk makes a file system of size bytes. It needs root.
func newLoopDisk(t *testing.T, size int64) *loopDisk {
	t.Helper()
	d := &loopDisk{t: t, image: filepath.Join(t.TempDir(), "image")}
	f, err := os.Create(d.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	d.run("mkfs.ext4", "-q", "-F", d.image)
	d.mount()
	return d
}

func (d *loopDisk) run(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.CommandContext(d.t.Context(), name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s (needs root): %v: %s", name, err, out)
	}
}

// mount mounts the image. The kernel writes nothing back by itself during a test: a copy while it
// does would not be that of one moment.
func (d *loopDisk) mount() {
	d.t.Helper()
	d.dir = d.t.TempDir()
	d.run("mount", "-o", "loop,commit=300", d.image, d.dir)
	dir := d.dir
	d.t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			d.t.Errorf("umount: %v: %s", err, out)
		}
	})
}

// powerLoss returns the disk as it is without the processes that use it now.
func (d *loopDisk) powerLoss(t *testing.T) *loopDisk {
	t.Helper()
	after := &loopDisk{t: t, image: filepath.Join(t.TempDir(), "image")}
	d.run("cp", "--sparse=always", d.image, after.image)
	after.mount()
	return after
}

// Test_PowerLoss_Node loses the power after the first start of a node and after later commands, on
// a real file system. The directory must be accepted with all acknowledged commands.
func Test_PowerLoss_Node(t *testing.T) {
	disk := newLoopDisk(t, 32<<20)
	config := func(dir string, sm *tally) cluster.Config {
		cfg := fastConfig(filepath.Join(dir, "data", "node"), sm)
		cfg.SegmentBytes = 1 << 20
		return cfg
	}
	n := open(t, config(disk.dir, &tally{}))
	for round := range 3 {
		for v := range uint64(20) {
			put(t, n, uint64(round)*20+v)
		}
		t.Run("", func(t *testing.T) {
			sm := &tally{}
			m := open(t, config(disk.powerLoss(t).dir, sm))
			put(t, m, 1000)
			if got := sm.values(); len(got) != 20*(round+1)+1 {
				t.Errorf("after the power loss: %d values, %d were acknowledged", len(got), 20*(round+1)+1)
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		})
		if round == 1 {
			if err := n.Snapshot(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}

// powerLossTime bounds the next test.
const powerLossTime = 4 * time.Second

// Test_PowerLoss_Log appends, truncates and compacts a log in a random order on a real file system,
// which is synced at random, and loses the power at random moments. The log must be accepted and
// have exactly what was acknowledged.
func Test_PowerLoss_Log(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	r := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	disk := newLoopDisk(t, 32<<20)
	dir := filepath.Join(disk.dir, "node")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	disk.run("sync", "-f", disk.dir)
	m := &modelLog{t: t, data: map[uint64]string{}}
	var err error
	if m.log, err = cluster.OpenLogStore(dir, nil, modelSegmentBytes, true); err != nil {
		t.Fatal(err)
	}
	losses, truncations := 0, 0
	for begin := time.Now(); time.Since(begin) < powerLossTime && !t.Failed(); {
		switch k := r.IntN(20); {
		case k < 12 || m.last-m.first < 4:
			m.must(m.append(m.last+1, 1+r.IntN(5)))
		case k < 15:
			truncations++
			m.must(m.remove(m.last-uint64(r.IntN(3)), m.last))
			m.must(r.IntN(2) == 0 || m.append(m.last+1, 1))
		case k < 16:
			m.must(m.remove(m.first, m.first+uint64(r.IntN(3))))
		case k < 18:
			disk.run("sync", "-f", filepath.Join(dir, "written"))
		default:
			losses++
			t.Run("", func(t *testing.T) {
				after := *m
				after.t = t
				if after.log, err = cluster.OpenLogStore(filepath.Join(disk.powerLoss(t).dir, "node"), nil, modelSegmentBytes, false); err != nil {
					t.Fatalf("a sound directory is refused: %v", err)
				}
				defer func() { _ = after.log.Close() }()
				after.check("after the power loss")
			})
		}
	}
	if err := m.log.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("%d power losses and %d truncations", losses, truncations)
	if losses < 3 || truncations < 3 {
		t.Error("the test is too slow to prove anything")
	}
}

// Test_FullDisk_InSmallSteps fills the disk of a node to its last byte in steps of 4 KiB, with a
// command after each step. Commands must be accepted within 5 s once there is room.
func Test_FullDisk_InSmallSteps(t *testing.T) {
	disk := newLoopDisk(t, 24<<20)
	sm := &tally{}
	cfg := fastConfig(filepath.Join(disk.dir, "node"), sm)
	cfg.SegmentBytes = 256 << 10
	cfg.SnapshotThreshold = 1 << 20
	n := open(t, cfg)
	filler := filepath.Join(disk.dir, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	put(t, n, 0)
	// Large steps first, down to the limit below which commands are refused.
	for n.Trouble() == nil {
		if _, err := f.Write(make([]byte, 256<<10)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.Propose(short(t, 100*time.Millisecond), value(1)); err == nil {
		t.Error("a command is accepted although two files of the log do not fit on the disk")
	}
	for {
		if _, err := f.Write(make([]byte, 4<<10)); err != nil {
			break
		}
		if err := f.Sync(); err != nil {
			break
		}
	}
	if err := n.Trouble(); err == nil {
		t.Error("the node has no health problem on a full disk")
	}
	for v := range uint64(5) {
		if _, err := n.Propose(short(t, 100*time.Millisecond), value(100+v)); err == nil {
			t.Error("a command is accepted on a full disk")
		}
	}
	_ = f.Close()
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Propose(short(t, 5*time.Second), value(2)); err != nil {
		t.Fatalf("5 s after there is room again: %v", err)
	}
	if got := sm.values(); !slices.Equal(got, []uint64{0, 2}) {
		t.Errorf("the node has the values %v, want those that were acknowledged", got)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	again := &tally{}
	cfg.StateMachine = again
	n = open(t, cfg)
	put(t, n, 3)
	if got := again.values(); !slices.Equal(got, []uint64{0, 2, 3}) {
		t.Errorf("after the restart: %v", got)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}

// short returns a context that ends after d.
func short(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
