package logs

import "context"

// Length returns the number of visible bytes, and whether the log is complete. It returns the error of
// ctx if the disk does not respond until ctx ends.
func (s *Store) Length(ctx context.Context, key Key) (length int64, sealed bool, err error) {
	l, err := s.getContext(ctx, key, false)
	if err != nil {
		return 0, false, err
	}
	if err := l.mu.LockContext(ctx); err != nil {
		return 0, false, err
	}
	defer l.mu.Unlock()
	if l.removed {
		return 0, false, ErrNotFound
	}
	return l.visible, l.sealed, nil
}

// Completed reports whether a log is known to be complete. It waits for no disk: it returns false for
// a log that was not read since the start, or that is being changed.
func (s *Store) Completed(key Key) bool {
	s.mu.Lock()
	l := s.logs[key]
	s.mu.Unlock()
	if l == nil || !l.mu.TryLock() {
		return false
	}
	defer l.mu.Unlock()
	return l.sealed && !l.removed
}

// Durable returns how many bytes of a log are fsynced on this node. Readers may see fewer.
func (s *Store) Durable(key Key) (length int64, err error) {
	l, err := s.get(key, false)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.length, nil
}

// end returns the durable length of a log and its position there.
func (s *Store) end(key Key) (length int64, p position, err error) {
	l, err := s.get(key, false)
	if err != nil {
		return 0, position{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.length, l.position(), nil
}

// Show raises the watermark of a replicated log to the offset to: all copies hold the bytes before
// it, so readers may see them. The watermark never goes back. Show does nothing if the log is not
// on this node.
func (s *Store) Show(key Key, to int64) {
	l, err := s.get(key, false)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.show(to)
}

// hold records that all copies of a replicated log have a position, which is that of the length.
func (s *Store) hold(key Key, length int64, p position) {
	l, err := s.get(key, false)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.visible >= length && l.owner != nil {
		l.owner.trail.prove(point{length, p.raw})
	}
	if l.held != p {
		l.held = p
		l.wake()
	}
}
