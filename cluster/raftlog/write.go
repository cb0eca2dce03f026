package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"

	"github.com/image-builder-ha/image-builder/faults"
)

// StoreLog appends one entry. See StoreLogs.
func (s *Log) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs appends entries, each with its checksum, and returns once they are fsynced. If it
// returns an error, the log ends where it ended before. It panics if the entries are to replace
// removed ones and the disk fails for cutTimeout.
func (s *Log) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	sealed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		c := *l
		c.Data = binary.BigEndian.AppendUint32(append(make([]byte, 0, len(l.Data)+4), l.Data...), checksum(l))
		sealed[i] = &c
	}
	defer s.change()()
	defer s.writing()()
	err := s.append(sealed)
	replaces := logs[0].Index <= s.cut // else Raft has a snapshot instead of the removed entries
	for begin := time.Now(); err != nil && replaces && !processEnded(err); err = s.append(sealed) {
		if time.Since(begin) >= cutTimeout {
			if faults.Mutant("removed-entries-count") {
				break
			}
			panic(fmt.Sprintf("the disk of the replicated log has failed for %s after the end of the log was removed, and Raft counts on the removed entries: %v", cutTimeout, err))
		}
		time.Sleep(mendInterval)
	}
	if err == nil {
		s.cut = 0
		s.end = logs[len(logs)-1].Index
		// A mark that is too low is safe, so the entries count even if it cannot be written.
		_ = s.setMark(s.end)
	}
	s.lastErr.Store(&err)
	return err
}

// DeleteRange removes entries at the front of the log (compaction) or at its end (a follower that
// was ahead of its leader). If it returns an error, the log is as it was before.
func (s *Log) DeleteRange(first, last uint64) error {
	defer s.change()()
	return s.remove(first, last)
}

// remove is DeleteRange. The caller has called change.
func (s *Log) remove(first, last uint64) error {
	begin, err := s.FirstIndex()
	if err != nil {
		return err
	}
	end := last >= s.end
	tail := end && first > begin
	// A compaction makes room, and may be necessary before the log can be opened again.
	if err := s.mend(); err != nil && tail {
		return err
	}
	if tail { // a new segment begins after the remaining entries
		if err := s.room(); err != nil {
			return err
		}
	}
	if end && first > 0 { // lower the mark first: it must never be ahead of the log
		if err := s.lowerMark(first - 1); err != nil {
			return err
		}
	}
	if err := s.wal.now().DeleteRange(first, last); err != nil {
		if end && s.files.isUncertain() && !processEnded(err) {
			// Raft counts on entries that the disk may have removed: it must not continue.
			panic(fmt.Sprintf("the disk of the replicated log failed while its end was removed, and it is unknown which entries are left: %v", err))
		}
		_ = s.setMark(s.end)
		s.fail(err)
		_ = s.mend()
		return err
	}
	if end {
		s.cut = max(s.cut, s.end)
	}
	s.end, err = s.LastIndex()
	return err
}

// cutTimeout is how long StoreLogs tries again if its entries replace others. Raft has removed
// these right before, and counts them as stored until StoreLogs succeeds (appendEntries in
// hashicorp/raft 1.8). While StoreLogs tries, Raft reports none. Afterwards the process must end:
// Raft would acknowledge entries after the removed ones, or refuse all entries.
const cutTimeout = 5 * time.Second

// processEnded reports whether an error means that the files are closed. No other node sees what
// Raft does then.
func processEnded(err error) bool {
	return errors.Is(err, fs.ErrClosed) || errors.Is(err, wal.ErrClosed)
}

// append appends entries that carry their checksums. After an error it opens the log again at once,
// or, if that fails, before the next change. The caller has called change.
//
// Without room the log still takes entries, as long as its tail has space. The node refuses
// commands before Raft has them. Entries that Raft itself writes must not fail earlier than
// necessary: a leader that cannot write steps down, and no node may follow it while all disks are
// full.
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
