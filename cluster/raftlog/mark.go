package raftlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
	"github.com/image-builder-ha/image-builder/faults"
)

// The mark is the file that holds the index of the last entry that was written.

const markSize = 12 // index and checksum

// lowerMark is syncMark for the removal of entries.
func (s *Log) lowerMark(index uint64) error {
	if faults.Mutant("mark-survives-truncation") {
		return nil
	}
	return s.syncMark(index)
}

// syncMark is setMark, and returns once the mark is durable. An earlier mark, which may be higher,
// does not come back after a power loss.
func (s *Log) syncMark(index uint64) error {
	if err := s.setMark(index); err != nil {
		return err
	}
	if err := s.mark.Sync(); err != nil {
		return fmt.Errorf("record the end of the log: %w", err)
	}
	return nil
}

// setMark writes the index of the last entry to the mark. The mark is not fsynced: after a power
// loss it may be lower than the end of the log, but never higher.
func (s *Log) setMark(index uint64) error {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, markSize), index)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	if _, err := s.mark.WriteAt(b, 0); err != nil {
		return fmt.Errorf("record the end of the log: %w", err)
	}
	return nil
}

// getMark returns the index in the mark. found is false if the file is empty.
func (s *Log) getMark() (index uint64, found bool, err error) {
	b := make([]byte, markSize+1)
	n, err := s.mark.ReadAt(b, 0)
	switch {
	case n == 0:
		return 0, false, nil
	case n != markSize || binary.BigEndian.Uint32(b[8:]) != crc32.Checksum(b[:8], castagnoli):
		return 0, false, fmt.Errorf("the file %q is damaged (%w)", datadir.LogEnd, errors.Join(err))
	}
	return binary.BigEndian.Uint64(b), true, nil
}
