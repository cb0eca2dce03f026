package raftlog

import (
	"encoding/binary"
	"fmt"

	"github.com/hashicorp/raft"
)

// FirstIndex returns the index of the first entry; 0 if there is none.
func (s *Log) FirstIndex() (uint64, error) {
	w := s.wal.use()
	defer s.wal.release(w)
	return w.FirstIndex()
}

// LastIndex returns the index of the last entry; 0 if there is none.
func (s *Log) LastIndex() (uint64, error) {
	w := s.wal.use()
	defer s.wal.release(w)
	return w.LastIndex()
}

// GetLog reads one entry and verifies its checksum. raft-wal itself still returns removed entries
// of the segment that is being written (raft-wal 0.4.1, state.getLog). They must not reach another
// node, because the snapshot of a restore is removed together with the entry that names it.
func (s *Log) GetLog(index uint64, out *raft.Log) error {
	first, err := s.FirstIndex()
	if err != nil {
		return err
	}
	if index < first {
		return raft.ErrLogNotFound
	}
	w := s.wal.use()
	err = w.GetLog(index, out)
	s.wal.release(w)
	if err != nil {
		return err
	}
	n := len(out.Data) - 4
	if n < 0 || out.Index != index {
		return fmt.Errorf("entry %d of the log is damaged", index)
	}
	sum := binary.BigEndian.Uint32(out.Data[n:])
	out.Data = out.Data[:n]
	if sum != checksum(out) {
		return fmt.Errorf("entry %d of the log is damaged: its checksum does not match", index)
	}
	return nil
}
