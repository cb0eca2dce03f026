package logs

import (
	"fmt"
	"math"
	"runtime"

	"github.com/image-builder-ha/image-builder/faults"
)

// inputStep is how much input is redacted at a time, in bytes.
const inputStep = 64 << 10

// RawOffset returns the number of raw bytes that the log has taken: the position at which the
// workload's output continues.
func (w *Writer) RawOffset() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.input
}

// Write redacts and appends raw output. It blocks while more than 1 MiB waits for the disk. Readers
// see the output once it is fsynced, on all copies of a replicated log.
func (w *Writer) Write(raw []byte) (int, error) {
	for n := 0; n < len(raw); {
		step := raw[n:min(n+inputStep, len(raw))]
		if err := w.waitForRoom(); err != nil {
			return n, err
		}
		w.take(step)
		if n += len(step); n < len(raw) || len(step) == inputStep {
			runtime.Gosched() // redaction may keep all processors busy, and the syncer has to run
		}
	}
	w.l.store.sync.dirty(w, false)
	return len(raw), nil
}

// take redacts and queues raw output.
func (w *Writer) take(raw []byte) {
	w.redacting.Lock()
	defer w.redacting.Unlock()
	w.mu.Lock()
	w.input += int64(len(raw))
	full := w.full
	w.mu.Unlock()
	if !full {
		w.redactor.add(raw)
		w.redact(false)
		return
	}
	// The output is not redacted, because it is not stored.
	_, held, _ := w.redactor.take(true, math.MaxInt)
	w.mu.Lock()
	w.skip(held + len(raw))
	w.mu.Unlock()
}

// Marker appends a line of the service itself, which is redacted as a whole.
func (w *Writer) Marker(line string) error {
	if err := w.waitForRoom(); err != nil {
		return err
	}
	w.redacting.Lock()
	w.redact(true)
	text := []byte(w.redactor.String(line) + "\n")
	w.mu.Lock()
	w.output(text, 0)
	w.mu.Unlock()
	w.redacting.Unlock()
	w.l.store.sync.dirty(w, false)
	return nil
}

// redact queues the redacted output that is final now, in records that can be read back. If final
// is set, redact also queues the output that the redactor holds back. The caller holds redacting,
// and not mu.
func (w *Writer) redact(final bool) {
	limit := maxPayload - len(redacted)
	if faults.Mutant("records-of-any-size") {
		limit = math.MaxInt
	}
	for more := true; more; {
		var out []byte
		var raw int
		if faults.Mutant("redact-under-the-flush-lock") {
			w.mu.Lock()
			out, raw, more = w.redactor.take(final, limit)
			w.mu.Unlock()
		} else {
			out, raw, more = w.redactor.take(final, limit)
		}
		w.mu.Lock()
		w.output(out, raw)
		w.mu.Unlock()
	}
	if final {
		w.mu.Lock()
		w.storeSkipped()
		w.mu.Unlock()
	}
}

// output queues redacted output that stands for raw raw bytes, up to the limit of the log. The
// caller holds mu.
func (w *Writer) output(out []byte, raw int) {
	if w.full || (len(out) == 0 && raw == 0) {
		w.skip(raw)
		return
	}
	if limit := w.l.store.opts.MaxBytes; w.length+int64(len(out)) > limit {
		w.full = true
		left := max(limit-w.length, 0) // a log of a former owner may be above its limit
		out = fmt.Appendf(out[:left:left], "\n--- log truncated: the limit of %d bytes is reached ---\n", limit)
	}
	for raw == 0 && len(out) > maxPayload { // a marker, within which no owner continues
		w.append(record{kind: kindData, payload: out[:maxPayload]})
		out = out[maxPayload:]
	}
	w.append(record{kind: kindData, raw: uint32(raw), payload: out})
}

// positionStep is how many bytes beyond the limit of a log are dropped at most before the raw
// offset is stored again.
const positionStep = 4 << 20

// skip counts raw bytes that the limit of the log drops. The caller holds mu.
func (w *Writer) skip(raw int) {
	if w.skipped += int64(raw); w.skipped >= positionStep {
		w.storeSkipped()
	}
}

// storeSkipped stores the raw offset after output was dropped because of the limit of the log. The
// caller holds mu.
func (w *Writer) storeSkipped() {
	if w.skipped > 0 && w.l.store.opts.Extended() && !faults.Mutant("no-position-after-the-limit") {
		w.append(position{w.raw + w.skipped, true}.record())
	}
	w.skipped = 0
}

// Reposition stores that the next output begins at another offset of the workload's output. The
// workload's output before it is stored, dropped or lost. Reposition does nothing below feature
// level 5.
func (w *Writer) Reposition(raw int64) error {
	if err := w.waitForRoom(); err != nil {
		return err
	}
	if !w.l.store.opts.Extended() {
		return nil
	}
	w.redacting.Lock()
	w.redact(true)
	w.mu.Lock()
	w.input, w.skipped = raw, 0
	w.append(position{raw, w.full}.record())
	w.mu.Unlock()
	w.redacting.Unlock()
	w.l.store.sync.dirty(w, false)
	return nil
}
