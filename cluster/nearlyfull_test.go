//go:build faults

package cluster_test

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_NodeOnANearlyFullDisk is Test_DiskFull with half a MiB left: enough for writes,
// and too little for the next file of the log.
func Test_NodeOnANearlyFullDisk(t *testing.T) {
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatalf("mount a small disk (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	cfg := fastConfig(filepath.Join(disk, "node"), &tally{})
	cfg.SegmentBytes = 1 << 20
	n := open(t, cfg)
	put(t, n, 0)
	filler := filepath.Join(disk, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for step := int64(1 << 20); step > 0; {
		if _, err := f.Write(make([]byte, step)); err != nil {
			step /= 2
			continue
		}
		size += step
	}
	if err := f.Truncate(size - 512<<10); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	propose := func(v uint64) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := n.Propose(ctx, &clusterv1.Command{Type: 1, Payload: append(binary.BigEndian.AppendUint64(nil, v), make([]byte, 64<<10)...)})
		return err
	}
	acked := 1
	for v := uint64(1); v < 400; v++ {
		if err = propose(v); err != nil {
			break
		}
		acked++
	}
	if err == nil {
		t.Fatal("the disk does not become full")
	}
	t.Logf("%d commands were acknowledged, then: %v", acked, err)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		if err = propose(1000); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("5 s after there is room again: %v", err)
		}
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
