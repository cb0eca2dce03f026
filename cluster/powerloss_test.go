//go:build faults

package cluster_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/disktest"
)

// Test_PowerLoss_Node loses the power after the first start of a node and after later commands, on
// a real file system. The directory must be accepted with all acknowledged commands.
func Test_PowerLoss_Node(t *testing.T) {
	disk := disktest.NewLoop(t, 32<<20)
	config := func(dir string, sm *tally) cluster.Config {
		cfg := fastConfig(filepath.Join(dir, "data", "node"), sm)
		cfg.SegmentBytes = 1 << 20
		return cfg
	}
	n := open(t, config(disk.Dir, &tally{}))
	for round := range 3 {
		for v := range uint64(20) {
			put(t, n, uint64(round)*20+v)
		}
		t.Run("", func(t *testing.T) {
			sm := &tally{}
			m := open(t, config(disk.PowerLoss(t).Dir, sm))
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

// Test_FullDisk_InSmallSteps fills the disk of a node to its last byte in steps of 4 KiB, with a
// command after each step. Commands must be accepted within 5 s once there is room.
func Test_FullDisk_InSmallSteps(t *testing.T) {
	disk := disktest.NewLoop(t, 24<<20)
	sm := &tally{}
	cfg := fastConfig(filepath.Join(disk.Dir, "node"), sm)
	cfg.SegmentBytes = 256 << 10
	cfg.SnapshotThreshold = 1 << 20
	n := open(t, cfg)
	filler := filepath.Join(disk.Dir, "filler")
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
