//go:build faults

package disks_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/test/disks"
)

// Test_Cut_KeepsWhatWasSynced writes to a disk that loses power.
func Test_Cut_KeepsWhatWasSynced(t *testing.T) {
	d := disks.New(t, 32<<20)
	f, err := os.Create(filepath.Join(d.Path, "synced"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("synced"); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	lost := 0
	for range 20 {
		late, err := os.Create(filepath.Join(d.Path, "late"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := late.WriteString("late"); err != nil {
			t.Fatal(err)
		}
		d.Cut()
		if err := f.Sync(); !errors.Is(err, syscall.EIO) {
			t.Errorf("a sync without power: %v", err)
		}
		_, _ = f.Close(), late.Close()
		d.Restore()
		if raw, err := os.ReadFile(filepath.Join(d.Path, "synced")); err != nil || string(raw) != "synced" {
			t.Fatalf("the synced file is %q, %v", raw, err)
		}
		if raw, _ := os.ReadFile(filepath.Join(d.Path, "late")); string(raw) != "late" {
			lost++
		}
		_ = os.Remove(filepath.Join(d.Path, "late"))
		if f, err = os.OpenFile(filepath.Join(d.Path, "synced"), os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
	}
	_ = f.Close()
	t.Logf("%d of 20 unsynced files were lost", lost)
	if lost == 0 || lost == 20 {
		t.Errorf("%d of 20 unsynced files were lost: Cut loses nothing, or everything", lost)
	}
}

// Test_Fill fills a disk to the last block, and frees it.
func Test_Fill(t *testing.T) {
	d := disks.New(t, 32<<20)
	empty := d.Free()
	if err := d.Fill(1 << 20); err != nil {
		t.Fatal(err)
	}
	steps := 0
	var err error
	for ; err == nil; err = d.FillBlock() {
		steps++
	}
	if !errors.Is(err, syscall.ENOSPC) || steps < 200 || d.Free() != 0 {
		t.Errorf("after %d steps %d bytes are free: %v", steps, d.Free(), err)
	}
	if err := os.WriteFile(filepath.Join(d.Path, "f"), []byte("x"), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a write on the full disk: %v", err)
	}
	d.Release()
	if d.Free() != empty {
		t.Errorf("%d bytes are free, were %d", d.Free(), empty)
	}
}

// Test_Freeze makes a disk hang while a file on it is written, and work again.
func Test_Freeze(t *testing.T) {
	d := disks.NewAt(t, 32<<20, filepath.Join(t.TempDir(), "a", "b"))
	path := filepath.Join(d.Path, "f")
	if err := os.WriteFile(path, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Freeze()
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(path, []byte("after"), 0o600) }()
	select {
	case err := <-written:
		t.Errorf("a write to the frozen disk returned: %v", err)
		written <- err
	case <-time.After(100 * time.Millisecond):
	}
	if raw, err := os.ReadFile(path); err != nil || string(raw) != "before" {
		t.Errorf("the file on the frozen disk is %q, %v", raw, err)
	}
	d.Thaw()
	if err := <-written; err != nil {
		t.Error(err)
	}
	if raw, err := os.ReadFile(path); err != nil || string(raw) != "after" {
		t.Errorf("the file is %q, %v", raw, err)
	}
	d.Freeze() // the end of the test thaws it
}
