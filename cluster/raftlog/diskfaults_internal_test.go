package raftlog

import (
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

const testSegmentBytes = 1 << 20

// fullDisk is a file system that has no room for a further segment of the log while full is set.
// Writes to existing segments succeed, because segments are allocated in advance.
type fullDisk struct {
	types.VFS
	full atomic.Bool
}

// Create leaves an empty file if there is no room, as the file system of raft-wal does.
func (d *fullDisk) Create(dir, name string, size uint64) (types.WritableFile, error) {
	if !d.full.Load() {
		return d.VFS.Create(dir, name, size)
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		err = errors.Join(f.Close(), syscall.ENOSPC)
	}
	return nil, err
}

// ignore is a function for Verify.
func ignore(*raft.Log) {}

// newLog returns an empty log that has passed its verification. Its segments are on disk,
// which may be nil.
func newLog(t testing.TB, dir string, disk *fullDisk) *Log {
	t.Helper()
	s, err := Open(Options{Dir: dir, SegmentBytes: testSegmentBytes, Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	if disk != nil {
		s.files.VFS = disk
	}
	if err := s.Verify(0, ignore); err != nil {
		t.Fatal(err)
	}
	return s
}

// checkReopened opens a log again, as at the next start of its node, and checks the index of its
// last entry.
func checkReopened(t testing.TB, dir string, last uint64) {
	t.Helper()
	s, err := Open(Options{Dir: dir, SegmentBytes: testSegmentBytes})
	if err == nil {
		t.Cleanup(func() { _ = s.Close() })
		err = s.Verify(0, ignore)
	}
	if err != nil {
		t.Errorf("the node does not start again: %v", err)
		return
	}
	if got, err := s.LastIndex(); got != last || err != nil {
		t.Errorf("after the restart the log ends at entry %d, want %d (%v)", got, last, err)
	}
}

// entries returns entries with data of the given size.
func entries(from, to uint64, size int) (out []*raft.Log) {
	for i := from; i <= to; i++ {
		out = append(out, &raft.Log{Index: i, Term: 1, Type: raft.LogCommand, Data: make([]byte, size)})
	}
	return out
}

func mustStore(t testing.TB, s *Log, logs []*raft.Log) {
	t.Helper()
	if err := s.StoreLogs(logs); err != nil {
		t.Fatal(err)
	}
}

// Test_DiskNearlyFull writes to a log until it needs a further segment, for which there
// is no room. Once there is room, writes must succeed without a restart.
func Test_DiskNearlyFull(t *testing.T) {
	dir := t.TempDir()
	disk := &fullDisk{VFS: fs.New()}
	s := newLog(t, dir, disk)
	t.Cleanup(func() { _ = s.Close() })
	disk.full.Store(true)
	next := uint64(1)
	var err error
	for ; err == nil; next++ {
		if next > 100 {
			t.Fatal("100 entries of 64 KiB fit into a segment of 1 MiB")
		}
		err = s.StoreLogs(entries(next, next, 64<<10))
	}
	t.Logf("entry %d on the full disk: %v", next-1, err)
	disk.full.Store(false)
	for range 3 {
		if err = s.StoreLogs(entries(next-1, next-1, 64<<10)); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatalf("there is room again, but the log cannot be written: %v", err)
	}
	_ = s.Close()
	checkReopened(t, dir, next-1)
}

// Test_TruncateOnAFullDisk removes the end of a log while there is no room for a further
// segment, and again once there is room. Afterwards the log must be writable.
func Test_TruncateOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	disk := &fullDisk{VFS: fs.New()}
	s := newLog(t, dir, disk)
	t.Cleanup(func() { _ = s.Close() })
	mustStore(t, s, entries(1, 10, 1))
	disk.full.Store(true)
	if err := s.DeleteRange(8, 10); err == nil {
		t.Fatal("the truncation succeeds without room for a segment")
	}
	disk.full.Store(false)
	err := s.DeleteRange(8, 10)
	if err == nil {
		err = s.StoreLogs(entries(8, 8, 1))
	}
	if err != nil {
		t.Fatalf("there is room again, but the log cannot be truncated and written: %v", err)
	}
	_ = s.Close()
	checkReopened(t, dir, 8)
}

// brokenMark is a mark that cannot be written while broken is set.
type brokenMark struct {
	MarkFile
	broken bool
}

func (m *brokenMark) WriteAt(p []byte, at int64) (int, error) {
	if m.broken {
		return 0, syscall.EIO
	}
	return m.MarkFile.WriteAt(p, at)
}

// Test_MarkFailsOnce stores an entry while the mark cannot be written. The next write
// must succeed: of the same entry if the first write has failed, of the following entry otherwise.
func Test_MarkFailsOnce(t *testing.T) {
	s := newLog(t, t.TempDir(), nil)
	t.Cleanup(func() { _ = s.Close() })
	mark := &brokenMark{MarkFile: s.mark}
	s.mark = mark
	mustStore(t, s, entries(1, 10, 1))
	mark.broken = true
	next := uint64(11)
	if err := s.StoreLogs(entries(next, next, 1)); err == nil {
		next++
	}
	mark.broken = false
	if err := s.StoreLogs(entries(next, next, 1)); err != nil {
		t.Errorf("the mark can be written again, but the log cannot: %v", err)
	}
}
