package cluster

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"github.com/image-builder-ha/image-builder/faults"
)

// append appends entries that carry their checksums. After an error it opens the log again at once,
// or, if that fails, before the next change. The caller holds s.writes.
func (s *logStore) append(logs []*raft.Log) error {
	if err := s.room(); err != nil && !s.cut { // after a removal there is a new, empty segment
		s.report()
		return err
	}
	if err := s.mend(); err != nil {
		return err
	}
	err := faults.Disk()
	if err == nil {
		err = s.wal.StoreLogs(logs)
	}
	if errors.Is(err, wal.ErrSealed) {
		// The tail was full before this write, and raft-wal has begun no new segment: it could not
		// create one, or the process ended in between. Nothing was written.
		s.fail(err)
		if err = s.mend(); err == nil {
			err = s.wal.StoreLogs(logs)
		}
	}
	if err != nil {
		s.fail(err)
		_ = s.mend()
	}
	return err
}

// fail records that the log must be opened again before the next change.
func (s *logStore) fail(err error) {
	s.broken.Store(&err)
	s.report()
}

// report wakes the loop that waits for the disk.
func (s *logStore) report() {
	select {
	case s.failed <- struct{}{}:
	default:
	}
}

// mend opens the log again if the last change has failed. Until it succeeds, entries are read from
// the former log, which is intact up to the last acknowledged entry. The caller holds s.writes.
func (s *logStore) mend() error {
	cause := s.broken.Load()
	if cause == nil || faults.Mutant("log-stays-broken") {
		return nil
	}
	err := faults.Disk()
	if err == nil {
		err = s.files.repair(s.end, s.segmentBytes)
	}
	var next *wal.WAL
	if err == nil {
		next, err = s.openWAL(true)
	}
	if err == nil {
		var last uint64
		if last, err = next.LastIndex(); err == nil && last != s.end {
			err = fmt.Errorf("the log ends at entry %d, but entry %d was the last one acknowledged", last, s.end)
		}
		if err != nil {
			err = errors.Join(err, next.Close())
		}
	}
	if err != nil {
		return fmt.Errorf("open the log again after %q: %w", *cause, err)
	}
	s.swap.Lock()
	former := s.wal
	s.wal = next
	s.swap.Unlock()
	s.broken.Store(nil)
	_ = former.Close() // closes the segments only; they were synced by each write
	return nil
}

// recover opens the log again after an error, if there is room for that. It returns why the log
// cannot be written now, or nil. It can be called at any time.
func (s *logStore) recover() error {
	if err := s.room(); err != nil {
		return err
	}
	if s.broken.Load() == nil {
		return nil
	}
	s.writes.Lock()
	defer s.writes.Unlock()
	return s.mend()
}

// unwritable returns why the log cannot be written now, or nil. It does not block.
func (s *logStore) unwritable() error {
	if err := s.room(); err != nil {
		return err
	}
	if err := s.broken.Load(); err != nil {
		return fmt.Errorf("the disk under the replicated log cannot be written: %w", *err)
	}
	return nil
}
