package logs

import (
	"context"
	"errors"
	"fmt"

	"github.com/cespare/xxhash/v2"
)

// Seal ends the output and returns the length and the checksum of the log, once it is fsynced and,
// if it is replicated, held by all copies. If ctx ends before, or the disk fails, Seal returns the
// watermark, at which the log then ends, together with an *EndError. From then on the watermark does
// not rise. The caller closes the log with Complete once the length is agreed on. Without a
// checksum the length is unknown: another copy has to seal the log.
func (w *Writer) Seal(ctx context.Context) (length int64, checksum string, err error) {
	if err := w.end(true); err != nil {
		return 0, "", err
	}
	if err = w.drain(ctx); err == nil {
		err = w.awaitCopies(ctx, false)
	}
	length, fenced := w.freeze()
	if fenced {
		return 0, "", ErrFenced
	}
	checksum, sumErr := w.l.store.Checksum(w.l.key, length)
	if errors.Is(sumErr, ErrNotFound) && length == 0 {
		checksum, sumErr = checksumText(xxhash.New()), nil
	}
	return length, checksum, errors.Join(w.endError(length, err), sumErr)
}

// Flush waits until everything that was written is fsynced and, if the log is replicated, held by
// all copies, so that every next owner finds it. It also writes the output that the redactor holds
// back, although the rest of a secret may follow.
func (w *Writer) Flush(ctx context.Context) error {
	if err := w.end(false); err != nil {
		return err
	}
	if err := w.drain(ctx); err != nil {
		return err
	}
	return w.awaitCopies(ctx, true)
}

// end queues the output that the redactor holds back. If finish is set, the writer refuses more
// output from then on. end returns ErrFenced or ErrSealed if the writer accepts no output for good.
func (w *Writer) end(finish bool) error {
	w.redacting.Lock()
	defer w.redacting.Unlock()
	w.mu.Lock()
	err := w.writeErr()
	w.mu.Unlock()
	if err == ErrFenced || err == ErrSealed {
		return err
	}
	w.redact(true)
	w.mu.Lock()
	w.finished = w.finished || finish
	w.mu.Unlock()
	return nil
}

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
