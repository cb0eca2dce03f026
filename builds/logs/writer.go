package logs

func newWriter(l *attemptLog, epoch uint64, r *Redactor) *Writer {
	if r == nil {
		r = NewRedactor(nil, nil)
	}
	sum := *l.sum
	return &Writer{
		l: l, epoch: epoch, redactor: r, length: l.length, raw: l.raw, input: l.raw,
		full: l.position().truncated, sum: &sum, flushed: make(chan struct{}),
	}
}

// append queues a record. The caller holds mu, or nothing else uses the writer.
func (w *Writer) append(r record) {
	w.pending.marks = append(w.pending.marks, seek{w.length, int64(len(w.pending.records))})
	w.pending.records = r.append(w.pending.records)
	if r.kind == kindData {
		_, _ = w.sum.Write(r.payload)
		w.length += int64(len(r.payload))
		w.raw += int64(r.raw)
		w.pending.data = append(w.pending.data, r.payload...)
		if len(r.payload) > 0 {
			w.pending.end = point{w.length, w.raw}
		}
	}
	if p, ok := positionOf(r); ok {
		w.raw, w.full = p.raw, p.truncated
	}
	w.pending.position = position{w.raw, w.full}
}

// writeErr returns the reason why the writer accepts no output. The caller holds mu.
func (w *Writer) writeErr() error {
	switch {
	case w.fenced:
		return ErrFenced
	case w.finished:
		return ErrSealed
	}
	return w.err
}

// fence makes the writer drop pending output and refuse more. The caller holds the log's mu.
func (w *Writer) fence() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fenced = true
	w.pending = pending{}
	w.l.wake()
}

func (w *Writer) isFenced() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fenced
}
