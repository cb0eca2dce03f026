package logs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
)

// Remove deletes a log. Its readers get ErrNotFound. Removing a missing log does nothing.
func (s *Store) Remove(key Key) error {
	_ = s.lockFor(context.Background(), key)
	return s.remove(key)
}

// RemoveDamaged deletes a log if it is still damaged: another copy may have replaced it in the
// meantime.
func (s *Store) RemoveDamaged(key Key) error {
	_ = s.lockFor(context.Background(), key)
	if s.damaged[key] == nil {
		s.mu.Unlock()
		return nil
	}
	return s.remove(key)
}

// remove deletes a log. The caller holds mu, which remove releases.
func (s *Store) remove(key Key) error {
	l, paths := s.logs[key], s.files[key]
	delete(s.logs, key)
	delete(s.files, key)
	delete(s.damaged, key)
	done := make(chan struct{})
	s.removing[key] = done
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.removing, key)
		s.mu.Unlock()
		close(done)
	}()
	if l != nil {
		l.mu.Lock()
		l.removed = true
		if l.writer != nil {
			l.writer.fence()
			s.sync.dirty(l.writer, true) // the next flush closes its file
		}
		for _, seg := range slices.Concat(l.segs, l.rest) {
			if !slices.Contains(paths, seg.path) {
				paths = append(paths, seg.path)
			}
		}
		l.wake()
		l.mu.Unlock()
	}
	var errs error
	for _, p := range paths {
		if err := s.fs.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = errors.Join(errs, fmt.Errorf("remove a log: %w", err))
		}
	}
	return errs
}
