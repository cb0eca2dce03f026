package raftlog

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"github.com/image-builder-ha/image-builder/faults"
)

// append appends entries that carry their checksums. After an error it opens the log again at once,
// or, if that fails, before the next change. The caller has called change.
//
// Without room the log still takes entries, as long as its tail has space. The node refuses commands
// before Raft has them. What Raft writes on its own must not fail earlier than necessary: a leader
// that cannot write steps down, and no node may follow it while all disks are full.
func (s *Log) append(logs []*raft.Log) error {
	if s.room() != nil {
		s.Report()
		if faults.Mutant("raft-needs-room") {
			return s.room()
		}
	}
	if err := s.mend(); err != nil {
		return err
	}
	if s.end > 0 && logs[0].Index > s.end+1 {
		// Raft has installed a snapshot, and has ignored that the log could not be removed.
		first, err := s.FirstIndex()
		if err == nil {
			err = s.remove(first, s.end)
		}
		if err != nil {
			return fmt.Errorf("remove the entries before a snapshot: %w", err)
		}
	}
	err := faults.Disk()
	if err == nil {
		err = s.wal.now().StoreLogs(logs)
	}
	if errors.Is(err, wal.ErrSealed) {
		// The tail was full before this write, and raft-wal has begun no new segment: it could not
		// create one, or the process ended in between. Nothing was written.
		s.fail(err)
		if err = s.mend(); err == nil {
			err = s.wal.now().StoreLogs(logs)
		}
	}
	if err != nil {
		s.fail(err)
		_ = s.mend()
	}
	return err
}

// fail records that the log must be opened again before the next change.
func (s *Log) fail(err error) {
	s.broken.Store(&err)
	s.Report()
}

// Report wakes Watch because of a change that was refused.
func (s *Log) Report() {
	select {
	case s.failed <- struct{}{}:
	default:
	}
}

// mend opens the log again if the last change has failed. Until it succeeds, entries are read from
// the former log, which is intact up to the last acknowledged entry. The caller has called change.
func (s *Log) mend() error {
	cause := s.broken.Load()
	if cause == nil || faults.Mutant("log-stays-broken") {
		return nil
	}
	err := faults.Disk()
	if err == nil {
		_, err = s.files.repair(s.end, s.segmentBytes)
	}
	if err == nil {
		err = s.reopen()
	}
	if err != nil {
		return fmt.Errorf("open the log again after %q: %w", *cause, err)
	}
	s.broken.Store(nil)
	return nil
}

// reopen opens the log, which must end at the last acknowledged entry, and uses it from now on. The
// caller has called change.
func (s *Log) reopen() error {
	next, err := s.openWAL(true)
	if err != nil {
		return err
	}
	last, err := next.LastIndex()
	if err == nil && last != s.end {
		err = fmt.Errorf("the log ends at entry %d, but entry %d was the last one acknowledged", last, s.end)
	}
	if err != nil {
		return errors.Join(err, next.Close())
	}
	s.wal.replace(next)
	return nil
}

// repairAtStart removes the remains of a write that a crash has cut off. raft-wal ignores them and
// writes over them, with one exception: it takes a part of the index of a segment for the whole, and
// the next removal of the end of the log would record that (raft-wal 0.4.1, segment.Writer.ForceSeal).
// A full disk, on which a full tail gets no successor, is no reason not to start: the log is repaired
// before the next change.
func (s *Log) repairAtStart() error {
	if faults.Mutant("torn-index-counts") {
		return nil
	}
	defer s.change()()
	changed, err := s.files.repair(s.end, s.segmentBytes)
	switch {
	case errors.Is(err, syscall.ENOSPC):
		s.fail(err)
		return nil
	case err != nil || !changed:
		return err
	}
	return s.reopen()
}

// recover opens the log again after an error, if the file that this may need fits on the disk. It
// returns why the log cannot be written now, or nil. It can be called at any time.
func (s *Log) recover() error {
	if s.broken.Load() != nil && s.fits(1) == nil {
		done := s.change()
		err := s.mend()
		done()
		if err != nil {
			return err
		}
	}
	return s.Unwritable()
}
