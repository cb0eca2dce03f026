package logs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"syscall"
)

// Damaged answers the logs of which this disk was found not to hold what was
// written, or not all of a complete one, since they were last removed; and a
// channel that is closed when there are more.
func (s *Store) Damaged() (keys []Key, more <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.damaged {
		keys = append(keys, k)
	}
	return keys, s.moreDamaged
}

// Damage answers what was found to be wrong with a log, or nil.
func (s *Store) Damage(key Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.damaged[key]
}

// damage notes what an error says about a log, if it says that it is damaged,
// and answers the error.
func (s *Store) damage(key Key, err error) error {
	if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrShort) {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.damaged[key] == nil {
		s.damaged[key] = err
		close(s.moreDamaged)
		s.moreDamaged = make(chan struct{})
	}
	return err
}

// readError words an error of reading a segment, and tells damage (the file is
// gone, cut off or changed, or the disk cannot read it) from a disk that may
// answer the next time. What was removed or cut meanwhile is not damaged.
func (l *attemptLog) readError(seg *segment, offset int64, err error) error {
	l.mu.Lock()
	gone, current := l.gone, slices.Contains(l.segs, seg)
	l.mu.Unlock()
	if gone {
		return ErrNotFound
	}
	unreadable := errors.Is(err, errTorn) || errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EIO)
	if unreadable && current {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	err = l.store.damage(l.key, fmt.Errorf("read the log at offset %d: %w", offset, err))
	l.mu.Lock()
	l.wake() // its owner, who waits for copies
	l.mu.Unlock()
	return err
}
