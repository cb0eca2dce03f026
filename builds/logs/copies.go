package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	"github.com/image-builder-ha/image-builder/faults"
)

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

// incarnation returns the incarnation of this node's copy of a log.
func (s *Store) incarnation(key Key) uint64 {
	l, err := s.get(key, false)
	if errors.Is(err, ErrNotFound) {
		return noCopy
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current()
}
