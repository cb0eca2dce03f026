package raftlog

import (
	"sync"

	wal "github.com/hashicorp/raft-wal"
)

// shared is the raft-wal in use. Another one can replace it at any time. raft-wal returns an empty
// log to a call during its Close, so the former one is closed once its last call has returned.
// Nobody waits for that: the call may wait for a disk that hangs.
type shared struct {
	mu      sync.Mutex
	current *usedWAL
}

type usedWAL struct {
	*wal.WAL
	calls    int
	replaced bool
}

// use returns the raft-wal in use. The caller releases it after its call.
func (s *shared) use() *usedWAL {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current.calls++
	return s.current
}

func (s *shared) release(w *usedWAL) {
	s.mu.Lock()
	w.calls--
	unused := w.replaced && w.calls == 0
	s.mu.Unlock()
	if unused {
		_ = w.Close() // closes the segments only; they were synced by each write
	}
}

// now returns the raft-wal in use for a change. Only a change replaces it.
func (s *shared) now() *wal.WAL {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current.WAL
}

// replace lets another raft-wal take the place of the one in use.
func (s *shared) replace(next *wal.WAL) {
	s.mu.Lock()
	former := s.current
	s.current = &usedWAL{WAL: next}
	unused := former != nil && former.calls == 0
	if former != nil {
		former.replaced = true
	}
	s.mu.Unlock()
	if unused {
		_ = former.Close() // as in release
	}
}

// close closes the raft-wal in use.
func (s *shared) close() error { return s.now().Close() }
