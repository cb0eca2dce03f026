package logs

import "fmt"

// EndError is the error of Seal for a log that ends before its last bytes.
type EndError struct {
	// Missing is the number of bytes that were written, redacted, and are not part of the log.
	Missing int64
	Err     error // why
}

// Error returns the number of bytes and the reason.
func (e *EndError) Error() string {
	return fmt.Sprintf("the last %d bytes of the log are lost: %v", e.Missing, e.Err)
}

// Unwrap returns the reason.
func (e *EndError) Unwrap() error { return e.Err }

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

// endError returns the error of a log that ends at length because of err. It returns nil if the log is
// complete: the last acknowledgement arrived after the limit of the wait, and before the freeze.
func (w *Writer) endError(length int64, err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err == nil || w.length == length {
		return nil
	}
	return &EndError{Missing: w.length - length, Err: err}
}
