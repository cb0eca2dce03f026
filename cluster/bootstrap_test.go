package cluster_test

import (
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/clustertest"
	"github.com/image-builder-ha/image-builder/cluster/disktest"
)

// Test_Bootstrap_AfterAFullDisk starts a new node on a full disk, which fails, and starts it again
// when there is room. The node must form its cluster then.
func Test_Bootstrap_AfterAFullDisk(t *testing.T) {
	var full atomic.Bool
	full.Store(true)
	disk := disktest.NewDisk()
	disk.Room = func() uint64 {
		if full.Load() {
			return 4 << 10
		}
		return 1 << 30
	}
	disk.Fail = func(op string) error {
		if full.Load() && op == "write" {
			return syscall.ENOSPC
		}
		return nil
	}
	snapshots, dir := clustertest.NewSnapshots(), t.TempDir()
	config := func() cluster.Config {
		c := fastConfig(dir, &tally{})
		c.Storage = &cluster.Storage{Disk: disk.Mount(), Snapshots: snapshots}
		return c
	}
	if _, err := tryOpen(t, config()); err == nil || !strings.Contains(err.Error(), syscall.ENOSPC.Error()) { // Raft does not wrap it
		t.Fatalf("the start on a full disk: %v, want an error that says that it is full", err)
	}
	full.Store(false)
	put(t, open(t, config()), 1)
}
