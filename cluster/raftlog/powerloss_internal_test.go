package raftlog

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
)

// volatileMark is a mark whose content is durable only after a sync. A power loss removes the rest.
type volatileMark struct {
	MarkFile
	path string
	disk []byte
}

// newVolatileMark replaces the mark of a log. Its present content counts as synced.
func newVolatileMark(t testing.TB, s *Log, dir string) *volatileMark {
	t.Helper()
	m := &volatileMark{MarkFile: s.mark, path: filepath.Join(dir, datadir.LogEnd)}
	if err := m.writeBack(); err != nil {
		t.Fatal(err)
	}
	s.mark = m
	return m
}

// writeBack stores what was written, as the kernel does at any time.
func (m *volatileMark) writeBack() (err error) {
	m.disk, err = io.ReadAll(io.NewSectionReader(m.MarkFile, 0, 1<<10))
	return err
}

func (m *volatileMark) Sync() error { return errors.Join(m.MarkFile.Sync(), m.writeBack()) }

// powerLoss ends the use of a log. The synced data remains: everything in the segments, and the
// synced content of the mark.
func (m *volatileMark) powerLoss(t testing.TB, s *Log) {
	t.Helper()
	disk := m.disk // the end of the process does not change what was there
	if err := errors.Join(s.Close(), os.WriteFile(m.path, disk, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// Test_PowerLossAfterTheFirstStart loses the power after the first entries of a new log.
func Test_PowerLossAfterTheFirstStart(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(Options{Dir: dir, SegmentBytes: testSegmentBytes, Fresh: true})
	if err != nil {
		t.Fatal(err)
	}
	mark := newVolatileMark(t, s, dir)
	if err := s.Verify(0, ignore); err != nil {
		t.Fatal(err)
	}
	mustStore(t, s, entries(1, 40, 1))
	mark.powerLoss(t, s)
	checkReopened(t, dir, 40)
}

// Test_MarkAheadAfterPowerLoss loses the power after the end of a log was removed, as a
// follower does if its leader has other entries. The disk has the mark of before: the kernel had
// written it back, and what was written to it later was not synced.
func Test_MarkAheadAfterPowerLoss(t *testing.T) {
	dir := t.TempDir()
	s := newLog(t, dir, nil)
	mark := newVolatileMark(t, s, dir)
	mustStore(t, s, entries(1, 10, 1))
	if err := mark.writeBack(); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteRange(8, 10); err != nil {
		t.Fatal(err)
	}
	mustStore(t, s, entries(8, 8, 1))
	mark.powerLoss(t, s)
	checkReopened(t, dir, 8)
}
