package raftlog

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

// Test_TornIndex ends the process during the removal of the end of the log: a part of the index that
// seals the tail is on the disk. After the start another leader's entries conflict again. The log
// must take them, and must be sound at each further start.
func Test_TornIndex(t *testing.T) {
	for name, stored := range map[string]int{"the header": 8, "a half": 84, "all, without the commit": 168} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := newLog(t, dir, nil)
			mustStore(t, s, entries(1, 40, 1))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			writePartOfIndex(t, dir, stored)
			s = reopened(t, dir)
			if err := s.DeleteRange(39, 40); err != nil {
				t.Fatal(err)
			}
			mustStore(t, s, entries(39, 45, 2))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			checkReopened(t, dir, 45)
		})
	}
}

// writePartOfIndex writes the first bytes of the index of the tail after its 40 entries.
func writePartOfIndex(t *testing.T, dir string, bytes int) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	f, err := os.OpenFile(files[len(files)-1], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	s := reopened(t, dir)
	tail, _ := openTail(s.files.state)
	end, err := findEnd(f, tail, 40)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil || end.last != 40 {
		t.Fatalf("the log ends at %+v (%v)", end, err)
	}
	index := make([]byte, frameHeaderSize)
	index[0] = 2 // segment.FrameIndex
	binary.LittleEndian.PutUint32(index[4:], 4*40)
	for i := range uint32(40) {
		index = binary.LittleEndian.AppendUint32(index, segmentHeaderSize+i)
	}
	if _, err := f.WriteAt(index[:bytes], end.offset); err != nil {
		t.Fatal(err)
	}
}

// reopened opens a log, as at a start of its node.
func reopened(t *testing.T, dir string) *Log {
	t.Helper()
	s, err := Open(Options{Dir: dir, SegmentBytes: testSegmentBytes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Verify(0, ignore); err != nil {
		t.Fatal(err)
	}
	return s
}
