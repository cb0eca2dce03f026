package logs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// Trouble returns the reason why logs cannot be written; nil if the last write succeeded.
func (s *Store) Trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// probeBytes is the free space that Probe requires on a full disk before logs are written again.
const probeBytes = 1 << 20

// Probe writes, fsyncs and removes a file of probeBytes. The result becomes that of Trouble.
func (s *Store) Probe() {
	path := filepath.Join(s.opts.Dir, "probe")
	f, err := s.fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		_, err = f.WriteAt(make([]byte, probeBytes), 0)
		err = errors.Join(err, f.Sync(), f.Close(), s.fs.Remove(path))
	}
	s.setProblem(spaceError(err))
}

func (s *Store) setProblem(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = err
}

// wrote records that a write succeeded. It does not clear ErrNoSpace, because a few bytes may find
// room where a log does not: only Probe clears it.
func (s *Store) wrote() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !errors.Is(s.problem, ErrNoSpace) {
		s.problem = nil
	}
}

// spaceError wraps the error of a full disk in ErrNoSpace.
func spaceError(err error) error {
	if errors.Is(err, ErrNoSpace) {
		return err
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w (%w)", ErrNoSpace, err)
	}
	return err
}
