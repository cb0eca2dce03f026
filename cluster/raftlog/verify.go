package raftlog

import (
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
)

// Verify reads the whole log, which Raft reads anyway, and calls each for each entry, in order.
// snapshot is the index of the newest snapshot. Verify returns an error if entries are damaged or
// missing. Otherwise it prepares the log for writes.
func (s *Log) Verify(snapshot uint64, each func(*raft.Log)) error {
	if err := s.check(snapshot, each); err != nil {
		return err
	}
	if err := s.repairAtStart(); err != nil {
		return fmt.Errorf("remove the remains of a write that was cut off from the log in %s: %w", s.dir, err)
	}
	return nil
}

// check is Verify without a change of the log.
func (s *Log) check(snapshot uint64, each func(*raft.Log)) error {
	mark, found, err := s.getMark()
	if err != nil {
		return datadir.Damaged(s.dir, err.Error())
	}
	if !found {
		if !s.fresh {
			return datadir.Damaged(s.dir, fmt.Sprintf("the file %q is empty", datadir.LogEnd))
		}
		if err := errors.Join(s.syncMark(0), datadir.Sync(s.dir)); err != nil {
			return err
		}
	}
	first, err1 := s.FirstIndex()
	end, err2 := s.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		return datadir.Damaged(s.dir, err.Error())
	}
	if max(end, snapshot) < mark {
		return datadir.Damaged(s.dir, fmt.Sprintf("the log ends at entry %d, but entry %d was written: it was cut off or its end cannot be read", end, mark))
	}
	if what, err := s.files.damageAfter(end); err != nil {
		return fmt.Errorf("read the end of the log in %s: %w", s.dir, err)
	} else if what != "" {
		return datadir.Damaged(s.dir, what)
	}
	if end > 0 && first > snapshot+1 {
		return datadir.Damaged(s.dir, fmt.Sprintf("the log begins at entry %d, but the newest snapshot that can be read ends at %d", first, snapshot))
	}
	if end == 0 {
		return nil
	}
	for i := first; i <= end; i++ {
		var l raft.Log
		if err := s.GetLog(i, &l); err != nil {
			return datadir.Damaged(s.dir, err.Error())
		}
		each(&l)
	}
	return nil
}
