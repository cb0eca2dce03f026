package logs

// Create returns a writer for the owner of a log at an epoch. It creates the log, or continues an
// existing one at its raw offset; see Writer.RawOffset. Only Show raises the watermark of a
// replicated log. Create returns ErrFenced if an owner of a greater epoch was here.
func (s *Store) Create(key Key, epoch uint64, r *Redactor, replicated bool) (*Writer, error) {
	l, err := s.get(key, true)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	w, err := l.newOwner(epoch, r)
	if err != nil {
		return nil, err
	}
	l.owner = w
	if w.replicated = replicated; !replicated {
		l.show(l.length)
	}
	return w, nil
}

// newOwner replaces and fences the former writer. The caller holds mu.
func (l *attemptLog) newOwner(epoch uint64, r *Redactor) (*Writer, error) {
	switch {
	case l.removed:
		return nil, ErrNotFound
	case l.sealed:
		return nil, ErrSealed
	case epoch < l.epoch:
		return nil, ErrFenced
	case epoch == l.epoch && l.end != noEnd:
		return nil, ErrSealed
	}
	if l.writer != nil {
		l.writer.fence()
	}
	w := newWriter(l, epoch, r)
	if epoch > l.epoch && len(l.segs) > 0 {
		w.append(fenceRecord(epoch))
	}
	l.epoch, l.end, l.held = epoch, noEnd, position{raw: noPosition}
	l.writer = w
	return w, nil
}

// Leave ends the ownership of the log. Live readers of a log that is not complete get ErrMoved, so
// that they look for the next owner.
func (w *Writer) Leave() {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	if w.l.owner == w {
		w.l.owner = nil
		w.l.wake()
	}
}
