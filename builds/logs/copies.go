package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/image-builder-ha/image-builder/faults"
)

// Append is one message of the owner of a log to another copy of the log.
type Append struct {
	Key   Key
	Epoch uint64
	// Offset is the start of Records in the log. It is at most the length of the copy.
	Offset int64
	// Records are whole records of output, encoded as in a segment.
	Records []byte
	// Cut removes the bytes of the copy after Offset first. They are from a former owner, and no
	// reader has seen them.
	Cut bool
	// Reset removes everything that the copy has first. It is set for a copy that did not belong to
	// the log before.
	Reset bool
	// Visible is the owner's watermark.
	Visible int64
	// Incarnation is that of the copy that this append continues or, with Cut or Reset, begins.
	// Former is the incarnation before that. An owner below feature level 5 sets neither.
	Incarnation, Former uint64
	// Source and Truncated are the position of the owner at the end of Records, if that is the end
	// of the log. Sequence orders the positions of one owner; 0 means that there is none.
	Source    int64
	Truncated bool
	Sequence  uint64
}

// Ack is a copy's response to an Append.
type Ack struct {
	// Length is how many bytes of the log the copy holds now, fsynced. It is less than
	// Append.Offset if bytes before Offset are missing.
	Length int64
	// Refusal is the reason why nothing was appended, such as ErrFenced, ErrReplaced or ErrSealed;
	// nil if there is none.
	Refusal error
	// Incarnation is that of the copy.
	Incarnation uint64
}

// Append appends to copies of logs that other nodes own, and fsyncs them together. It blocks until
// all are durable or refused. The acks are in the order of the batch.
func (s *Store) Append(ctx context.Context, batch []Append) []Ack {
	acks := make([]Ack, len(batch))
	writers := make([]*Writer, len(batch))
	for i, a := range batch {
		writers[i], acks[i].Refusal = s.enqueue(a)
		s.metrics.received.Add(float64(len(a.Records)))
	}
	for i, w := range writers {
		if w == nil {
			if errors.Is(acks[i].Refusal, ErrReplaced) {
				acks[i].Incarnation = s.incarnation(batch[i].Key)
			}
			continue
		}
		if err := w.drain(ctx); err != nil {
			acks[i].Refusal = err
			continue
		}
		l := w.l
		l.mu.Lock()
		if acks[i].Incarnation = l.current(); l.writer != w || l.removed {
			acks[i].Refusal = ErrFenced
			if a := batch[i]; a.Incarnation != 0 && acks[i].Incarnation != a.Incarnation {
				acks[i].Refusal = ErrReplaced
			}
		} else {
			acks[i].Length = l.length
			l.used = time.Now()
			l.show(batch[i].Visible)
		}
		l.mu.Unlock()
	}
	return acks
}

// Idle returns the time since another node last appended to this copy.
func (s *Store) Idle(key Key) time.Duration {
	s.mu.Lock()
	l := s.logs[key]
	s.mu.Unlock()
	if l == nil {
		return math.MaxInt64
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Since(l.used)
}

// enqueue executes the Cut or Reset of an append and queues its records.
func (s *Store) enqueue(a Append) (*Writer, error) {
	if a.Cut || a.Reset {
		lock := s.begins.of(a.Key)
		lock.Lock()
		defer lock.Unlock()
	}
	if a.Reset {
		if err := s.reset(&a); err != nil {
			return nil, err
		}
	}
	l, err := s.get(a.Key, true)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sealed {
		return nil, ErrSealed
	}
	if a.Epoch < l.epoch && !faults.Mutant("append-without-fence") {
		return nil, ErrFenced
	}
	begins, err := admit(a, l.current())
	if err != nil {
		return nil, err
	}
	if begins && a.Cut {
		if err := l.cutTo(a.Offset); err != nil {
			return nil, err
		}
	}
	w := l.writer
	if w == nil || w.epoch != a.Epoch {
		if w, err = l.newOwner(max(a.Epoch, l.epoch), nil); err != nil {
			return nil, err
		}
		w.replicated = true
		if len(l.segs) == 0 { // the fence must be durable even if the log is empty
			w.append(fenceRecord(a.Epoch))
		}
	}
	if begins && a.Incarnation != 0 {
		l.incarnation = a.Incarnation
		w.mu.Lock()
		w.append(incarnationRecord(a.Incarnation))
		w.mu.Unlock()
	}
	end, err := w.appendRecords(a.Offset, a.Records)
	if err != nil {
		return nil, err
	}
	w.follow(a, end)
	s.sync.dirty(w, true)
	return w, nil
}

// reset removes this copy, unless an earlier delivery of a has reset it. It returns ErrFenced if an
// owner newer than the caller was here, and ErrReplaced if the copy is not the one that a replaces.
// The caller holds the lock of beginLocks. After reset, a replaces noCopy.
func (s *Store) reset(a *Append) error {
	l, err := s.get(a.Key, false)
	switch {
	case errors.Is(err, ErrNotFound):
		if _, err := admit(*a, noCopy); err != nil {
			return err
		}
		a.Former = noCopy
		return nil
	case err != nil && !errors.Is(err, ErrDamaged):
		return err
	}
	l.mu.Lock()
	newer := a.Epoch < l.epoch
	begins, err := admit(*a, l.current())
	l.mu.Unlock()
	switch {
	case newer:
		return ErrFenced
	case err != nil || !begins:
		return err
	}
	a.Former = noCopy
	return s.Remove(a.Key)
}

// cutTo removes the bytes after offset, if there are any. It returns an error if a reader may have
// seen them. The caller holds mu.
func (l *attemptLog) cutTo(offset int64) error {
	if err := l.stopWriter(); err != nil {
		return err
	}
	if l.length <= offset && !l.uncut {
		return nil
	}
	offset = min(offset, l.length)
	if offset < l.visible {
		return fmt.Errorf("readers have seen the log of build %s attempt %d up to offset %d on this node, so it cannot be cut at %d", l.key.Build, l.key.Attempt, l.visible, offset)
	}
	return l.cut(offset)
}

// appendRecords queues the records that this copy does not have yet. It returns the offset after
// them.
func (w *Writer) appendRecords(offset int64, records []byte) (end int64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if offset > w.length {
		return offset, nil // the owner learns the length of this copy from the ack
	}
	r := bytes.NewReader(records)
	for at := int64(0); ; {
		rec, next, err := readRecord(r, at)
		if errors.Is(err, io.EOF) {
			return offset, nil
		}
		if err != nil {
			return 0, fmt.Errorf("the records that were sent to this copy are damaged: %w", err)
		}
		at = next
		end := offset + int64(len(rec.payload))
		switch {
		case rec.kind == kindPosition:
			if p, ok := positionOf(rec); ok && offset == w.length && p.raw != w.raw {
				w.append(rec)
			}
			continue
		case rec.kind != kindData:
			return 0, fmt.Errorf("a record of the unexpected kind %d was sent to this copy", rec.kind)
		case offset == w.length:
			w.append(rec)
		case end > w.length:
			return 0, fmt.Errorf("a record from %d to %d does not continue this copy, which ends at %d", offset, end, w.length)
		}
		offset = end
	}
}

// Records returns durable records of output from offset on, which must be the end of a record, and
// the records of positions before each of them. It returns about budget bytes. It returns at least
// one record of output if offset is before the end of the log.
func (s *Store) Records(key Key, offset int64, budget int) ([]record, error) {
	l, err := s.get(key, false)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	if l.removed {
		l.mu.Unlock()
		return nil, ErrNotFound
	}
	if offset >= l.length {
		l.mu.Unlock()
		return nil, nil
	}
	seg, at := l.find(offset)
	size := seg.size
	l.mu.Unlock()
	out, err := s.records(seg.path, at, size, offset, budget)
	if err != nil {
		return nil, l.readError(seg, offset, err)
	}
	if len(out) > 0 && offset == int64(seg.header.offset) && s.opts.Extended() {
		// A record of the position may be at the end of the segment before.
		out = append([]record{position{raw: int64(seg.header.raw)}.record()}, out...)
	}
	return out, nil
}

func (s *Store) records(path string, at seek, size, offset int64, budget int) ([]record, error) {
	f, err := s.fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for extra := int64(seekStep + 2*inputStep); ; extra = 2 * (extra + maxPayload) {
		n := min(size-at.pos, int64(budget)+extra)
		src, err := newBlock(f, at.pos, n)
		if err != nil {
			return nil, err
		}
		out, err := parseRecords(src, at, size, offset, budget)
		switch {
		case len(out) > 0: // ignore err: the next call starts at the failed record
			return out, nil
		case n == size-at.pos:
			return nil, err
		}
	}
}

// parseRecords returns the records from offset on that are whole in src.
func parseRecords(src block, at seek, size, offset int64, budget int) (out []record, err error) {
	var before []record // positions that no output follows yet
	for got := 0; at.pos < size && (got == 0 || got < budget); {
		r, next, err := readRecord(src, at.pos)
		if err != nil {
			return out, err
		}
		at.pos = next
		switch {
		case r.kind == kindPosition && at.offset >= offset:
			before = append(before, r)
		case r.kind != kindData:
		case at.offset >= offset:
			out = append(append(out, before...), r)
			before = nil
			got += len(r.payload)
			at.offset += int64(len(r.payload))
		default:
			at.offset += int64(len(r.payload))
		}
	}
	return out, nil
}

// encodeRecords encodes records as in a segment. length is the number of payload bytes.
func encodeRecords(recs []record) (b []byte, length int64) {
	for _, r := range recs {
		b = r.append(b)
		if r.kind == kindData {
			length += int64(len(r.payload))
		}
	}
	return b, length
}

// block is a part of a file that was read at once.
type block struct {
	data []byte
	at   int64
}

func newBlock(f io.ReaderAt, at, size int64) (block, error) {
	data := make([]byte, size)
	n, err := f.ReadAt(data, at)
	if n == len(data) || errors.Is(err, io.EOF) {
		err = nil
	}
	return block{data[:n], at}, err
}

// ReadAt reads at a position of the file, within the block.
func (b block) ReadAt(p []byte, at int64) (int, error) {
	if at < b.at || at >= b.at+int64(len(b.data)) {
		return 0, io.EOF
	}
	n := copy(p, b.data[at-b.at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
