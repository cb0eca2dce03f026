//go:build faults

package cluster_test

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/cluster"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_DiskFull fills the disk under the log. Proposals must fail with the reason, and succeed
// again once there is room. After a restart, everything that was acknowledged must be there.
func Test_DiskFull(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatalf("mount a small disk (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	sm := &tally{}
	cfg := fastConfig(filepath.Join(disk, "node"), sm)
	cfg.SegmentBytes = 1 << 20
	n := open(t, cfg)
	put(t, n, 0)
	filler := filepath.Join(disk, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	block := make([]byte, 1<<20)
	for size := len(block); size > 0; {
		if _, err := f.Write(block[:size]); err != nil {
			size /= 2
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	propose := func(v uint64) error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		cmd := &clusterv1.Command{Type: 1, Payload: append(binary.BigEndian.AppendUint64(nil, v), block[:64<<10]...)}
		_, err := n.Propose(ctx, cmd)
		return err
	}
	acked := 1
	var refusal error
	for v := uint64(1); v < 400 && refusal == nil; v++ {
		if refusal = propose(v); refusal == nil {
			acked++
		}
	}
	if !errors.Is(refusal, cluster.ErrOutcomeUnknown) && !errors.Is(refusal, cluster.ErrNoLeader) {
		t.Fatalf("after %d commands on a full disk: %v", acked, refusal)
	}
	t.Logf("%d acknowledged, then: %v", acked, refusal)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for err = propose(1000); err != nil && time.Now().Before(deadline); err = propose(1000) {
	}
	if err != nil {
		t.Fatalf("once there is room again: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	again := &tally{}
	cfg.StateMachine = again
	n = open(t, cfg)
	put(t, n, 2000)
	if got := len(again.values()); got < acked+2 {
		t.Errorf("after the restart: %d values, %d were acknowledged", got, acked+2)
	}
}

// Test_DiskFull_AtTheStart starts a node on a disk without room for the log. The error must not say
// that the directory is damaged, and the node must start once there is room.
func Test_DiskFull_AtTheStart(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount a small disk (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	cfg := fastConfig(filepath.Join(disk, "node"), &tally{})
	n, err := tryOpen(t, cfg)
	if n != nil {
		_ = n.Close()
	}
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "64 MiB") || strings.Contains(err.Error(), "damaged") {
		t.Fatalf("a start on a disk of 1 MiB: %v", err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", syscall.MS_REMOUNT, "size=256m"); err != nil {
		t.Fatal(err)
	}
	put(t, open(t, cfg), 0)
}
