package logs

// noEnd is the end of a log whose writer has not ended it.
const noEnd = -1

// freeze ends the log at the watermark, and returns the watermark. Reading the watermark and ending
// its rise are one critical section, so that readers never see more than the length that is
// committed: an acknowledgement that arrives later is ignored by show. The end is bound to the
// epoch of the writer. A writer of a greater epoch continues the log, and then the end of the
// former writer cannot be committed any more. freeze reports whether such a writer was here before.
func (w *Writer) freeze() (end int64, fenced bool) {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	if w.isFenced() || w.l.removed {
		return 0, true
	}
	w.l.end = w.l.visible
	return w.l.end, false
}
