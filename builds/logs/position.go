package logs

import (
	"encoding/binary"

	"github.com/image-builder-ha/image-builder/faults"
)

// The raw offset of a log usually is the sum of the raw bytes of its records. It is another number
// after output that the limit of the log has dropped, and after a runtime has begun to read the
// workload's output at another position (Reposition). A record of the kind kindPosition then stores
// it. A copy learns the raw offset at the end of the log with each append, since there may be no
// more output that carries it.

// positionStep is how many bytes beyond the limit of a log are dropped at most before the raw
// offset is stored again.
const positionStep = 4 << 20

// noPosition is not the raw offset of any log.
const noPosition = -1

// position is the source position of a log.
type position struct {
	raw int64
	// truncated means that the limit of the log has dropped output.
	truncated bool
}

func (p position) record() record {
	b := binary.BigEndian.AppendUint64(nil, uint64(p.raw))
	if p.truncated {
		return record{kind: kindPosition, payload: append(b, 1)}
	}
	return record{kind: kindPosition, payload: append(b, 0)}
}

// positionOf returns the position in a record. ok is false for other records.
func positionOf(r record) (p position, ok bool) {
	if r.kind != kindPosition || len(r.payload) < 9 {
		return position{}, false
	}
	return position{int64(binary.BigEndian.Uint64(r.payload)), r.payload[8] == 1}, true
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

// skip counts raw bytes that the limit of the log drops. The caller holds mu.
func (w *Writer) skip(raw int) {
	if w.skipped += int64(raw); w.skipped >= positionStep {
		w.storeSkipped()
	}
}

// storeSkipped stores the raw offset after output that the limit of the log has dropped. The caller
// holds mu.
func (w *Writer) storeSkipped() {
	if w.skipped > 0 && w.l.store.opts.Extended() && !faults.Mutant("no-position-after-the-limit") {
		w.append(position{w.raw + w.skipped, true}.record())
	}
	w.skipped = 0
}

// follow stores the owner's position in a copy that has all of the owner's output up to end. It
// ignores a position that is older than the last one.
func (w *Writer) follow(a Append, end int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a.Sequence <= w.sequence || end != w.length {
		return
	}
	w.sequence = a.Sequence
	if p := (position{a.Source, a.Truncated}); p != (position{w.raw, w.full}) {
		w.append(p.record())
	}
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

// position returns the position at the durable end of the log. The caller holds mu.
func (l *attemptLog) position() position {
	return position{l.raw, l.truncated || l.length > l.store.opts.MaxBytes}
}
