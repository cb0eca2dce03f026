package raftlog

import (
	"errors"
	"testing"
)

// Test_NoRoom_TheTailTakesEntries leaves no room on the disk. Commands must be refused, and the log
// must take what a leader writes on its own, because its last file has space.
func Test_NoRoom_TheTailTakesEntries(t *testing.T) {
	s := newLog(t, t.TempDir(), nil)
	t.Cleanup(func() { _ = s.Close() })
	mustStore(t, s, entries(1, 3, 1))
	for segments := range uint64(roomSegments + 2) {
		refused := segments < roomSegments
		s.free = func() (uint64, error) { return segments * testSegmentBytes, nil }
		if err := s.Unwritable(); errors.Is(err, ErrNoRoom) != refused {
			t.Errorf("room for %d files: commands are refused with %v, want %t", segments, err, refused)
		}
		next := s.end + 1
		if err := s.StoreLogs(entries(next, next, 1)); err != nil {
			t.Errorf("room for %d files: %v", segments, err)
		}
	}
}
