package raftlog

// SyncMark writes the index of the last entry to the mark durably.
func (s *Log) SyncMark(index uint64) error { return s.syncMark(index) }
