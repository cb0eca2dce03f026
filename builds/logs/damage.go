package logs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"syscall"

	"github.com/image-builder-ha/image-builder/faults"
)

// Damaged returns the logs whose copy on this disk was found to be damaged, or too short for a
// complete log, and was not removed since. more is closed when another log is found.
func (s *Store) Damaged() (keys []Key, more <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.damaged {
		keys = append(keys, k)
	}
	return keys, s.moreDamaged
}

// Damage returns the damage that was found in a log, or nil.
func (s *Store) Damage(key Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.damaged[key]
}

// damage records err if it means that the log is damaged, and returns err. It logs damage once, until
// the log is removed. It records nothing for a log that was removed while it was read: the mark would
// stay for the next copy.
func (l *attemptLog) damage(err error) error {
	if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrShort) {
		return err
	}
	s, key := l.store, l.key
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logs[key] != l && !faults.Mutant("damage-of-a-removed-log") {
		return err
	}
	if s.damaged[key] == nil {
		s.damaged[key] = err
		close(s.moreDamaged)
		s.moreDamaged = make(chan struct{})
		s.opts.Logger.Error("this node's copy of a log is damaged", "build", key.Build, "attempt", key.Attempt, "err", err)
	}
	return err
}

// notShort removes the mark of a copy that was too short and has the whole log now.
func (l *attemptLog) notShort() {
	s := l.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.logs[l.key] == l && errors.Is(s.damaged[l.key], ErrShort) {
		delete(s.damaged, l.key)
	}
}

// readError wraps an error of reading a segment. It distinguishes damage (the file is missing, cut
// off or changed, or the disk cannot read it) from a temporary error. A segment that was removed or
// cut in the meantime is not damaged.
func (l *attemptLog) readError(seg *segment, offset int64, err error) error {
	l.mu.Lock()
	removed, current := l.removed, slices.Contains(l.segs, seg)
	l.mu.Unlock()
	if removed {
		return ErrNotFound
	}
	if isUnreadable(err) && current {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	err = l.damage(fmt.Errorf("read the log at offset %d: %w", offset, err))
	l.mu.Lock()
	l.wake() // the owner may wait for copies, which will not come
	l.mu.Unlock()
	return err
}

// isUnreadable reports whether an error of reading a segment means that the segment is damaged: it is
// missing, cut off or changed, or the disk cannot read it.
func isUnreadable(err error) bool {
	return errors.Is(err, errTorn) || errors.Is(err, io.EOF) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EIO)
}
