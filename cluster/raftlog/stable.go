package raftlog

// Set stores a value of Raft durably.
func (s *Log) Set(key, value []byte) error {
	defer s.ops.Begin()()
	w := s.wal.use()
	defer s.wal.release(w)
	return w.Set(key, value)
}

// Get returns a value that Set has stored.
func (s *Log) Get(key []byte) ([]byte, error) {
	w := s.wal.use()
	defer s.wal.release(w)
	return w.Get(key)
}

// SetUint64 stores a number of Raft durably.
func (s *Log) SetUint64(key []byte, value uint64) error {
	defer s.ops.Begin()()
	w := s.wal.use()
	defer s.wal.release(w)
	return w.SetUint64(key, value)
}

// GetUint64 returns a number that SetUint64 has stored; 0 if there is none.
func (s *Log) GetUint64(key []byte) (uint64, error) {
	w := s.wal.use()
	defer s.wal.release(w)
	return w.GetUint64(key)
}
