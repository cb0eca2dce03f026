package raftlog

import (
	"errors"
	"fmt"
	"runtime/debug"
	"syscall"
	"time"

	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/segment"

	"github.com/image-builder-ha/image-builder/faults"
)

// fail records that the log must be opened again before the next change.
func (s *Log) fail(err error) {
	s.broken.Store(&err)
	s.Report()
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
// writes over them, with one exception: it takes a part of the index of a segment for the whole,
// and the next removal of the end of the log would record that (raft-wal 0.4.1,
// segment.Writer.ForceSeal). A full disk, on which a full tail gets no successor, is no reason not
// to start: the log is repaired before the next change.
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

// openWAL opens raft-wal. Its metadata is a memory-mapped bbolt file: reading a damaged one causes
// a panic or a memory fault, which openWAL turns into an error. With guard it refuses a list that
// is empty although there are segments, which raft-wal would remove.
func (s *Log) openWAL(guard bool) (w *wal.WAL, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("its metadata cannot be read: %v", p)
		}
	}()
	state, err := s.files.Load(s.files.dir)
	if err != nil {
		return nil, err
	}
	if guard && len(state.Segments) == 0 {
		if names, err := s.files.segments(); err != nil || len(names) > 0 {
			return nil, errors.Join(err, errors.New("its metadata names none of its files"))
		}
	}
	if err := s.files.removeUnlisted(); err != nil {
		return nil, err
	}
	return wal.Open(s.files.dir, wal.WithSegmentSize(s.segmentBytes), wal.WithSegmentFiler(rotatingFiler{segment.NewFiler(s.files.dir, s.files), &s.files.rotation}), wal.WithMetaStore(s.files))
}

// mendInterval is how often a log is opened again after an error of its disk.
const mendInterval = 100 * time.Millisecond
