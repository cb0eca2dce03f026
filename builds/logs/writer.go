package logs

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"sync"

	"github.com/cespare/xxhash/v2"

	"github.com/image-builder-ha/image-builder/faults"
)

// Sizes of the writer, in bytes.
const (
	inputStep  = 64 << 10 // input that is redacted at a time
	maxPending = 1 << 20  // output that waits for the disk; writers block beyond it
	maxTail    = 256 << 10
)

// Writer appends to one log. One goroutine at a time may call Write, Marker, Reposition, Flush and
// Seal.
type Writer struct {
	l     *attemptLog
	epoch uint64
	// redactor is used under redacting, which a caller locks before mu. It is not used under mu,
	// because a flush of all logs waits for mu.
	redacting sync.Mutex
	redactor  *Redactor
	// replicated means that other nodes hold copies, and that Store.Show raises the watermark.
	replicated bool

	mu       sync.Mutex
	pending  pending
	length   int64 // including pending
	raw      int64 // including pending, without what the redactor holds back
	input    int64 // raw bytes written
	sum      *xxhash.Digest
	full     bool   // the limit was reached
	skipped  int64  // raw bytes that were dropped since the raw offset was stored
	sequence uint64 // of the last position that the owner has sent
	err      error  // of the last flush; nil if it succeeded
	fenced   bool
	finished bool
	flushing bool          // a flush is in progress
	flushed  chan struct{} // closed and replaced after each flush

	trail trail // guarded by the mu of the log

	// Only the syncer's flush and appendNow use these.
	file     File
	size     int64
	dirDirty bool // the directory must be fsynced
}

// pending is output that is not on the disk yet.
type pending struct {
	records  []byte
	data     []byte // payloads of the output
	position        // after the records
	marks    []seek // offset and position within records, for the index
	end      point  // after the last record with a payload; zero if there is none
}

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

// waitForRoom blocks until there is room for more output. It returns an error if the writer accepts
// none.
func (w *Writer) waitForRoom() error {
	for {
		w.mu.Lock()
		full, err, flushed := len(w.pending.records) >= maxPending, w.writeErr(), w.flushed
		w.mu.Unlock()
		if err != nil {
			w.l.store.sync.dirty(w, false) // retry the write: the disk may have room again
			return err
		}
		if !full {
			return nil
		}
		w.l.store.sync.dirty(w, true)
		select {
		case <-flushed:
		case <-w.l.store.sync.done:
			return ErrClosed
		}
	}
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

// redact queues the redacted output that is final now, in records that can be read back. final also
// queues what the redactor holds back. The caller holds redacting, and not mu.
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
// all copies, so that every next owner finds it. It also writes what the redactor holds back,
// although the rest of a secret may follow.
func (w *Writer) Flush(ctx context.Context) error {
	if err := w.end(false); err != nil {
		return err
	}
	if err := w.drain(ctx); err != nil {
		return err
	}
	return w.awaitCopies(ctx, true)
}

// end queues what the redactor holds back. finish makes the writer refuse more output. end returns
// ErrFenced or ErrSealed if the writer accepts no output for good.
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

// awaitCopies waits until everything that is durable on this node is visible and, if position is
// set, all copies have the position. A runtime may drop the workload's output before the position
// then.
func (w *Writer) awaitCopies(ctx context.Context, position bool) error {
	for {
		w.l.mu.Lock()
		behind, removed, changed := w.l.length-w.l.visible, w.l.removed, w.l.wait()
		unheld := position && w.replicated && w.l.held != w.l.position()
		w.l.mu.Unlock()
		switch {
		case w.isFenced() || removed:
			return ErrFenced
		case behind <= 0 && !unheld:
			return nil
		}
		if err := w.l.store.Damage(w.l.key); err != nil {
			return fmt.Errorf("the end of the log cannot be copied: %w", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the end of the log has no second copy: %w", ctx.Err())
		case <-changed:
		case <-w.l.store.sync.done:
			return ErrClosed
		}
	}
}

// drain waits until no output is pending and no flush is in progress.
func (w *Writer) drain(ctx context.Context) error {
	for tries := 0; ; tries++ {
		w.mu.Lock()
		left, err, flushed := w.flushing || len(w.pending.records) > 0, w.err, w.flushed
		w.mu.Unlock()
		if !left {
			return nil
		}
		if err != nil && tries > 1 {
			return err
		}
		w.l.store.sync.dirty(w, true)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-flushed:
		case <-w.l.store.sync.done:
			return ErrClosed
		}
	}
}

// fence makes the writer drop pending output and refuse more. The caller holds the log's mu.
func (w *Writer) fence() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fenced = true
	w.pending = pending{}
	w.l.wake()
}

// flush writes and fsyncs the pending output. It returns what to make visible once the directory is
// fsynced too.
func (w *Writer) flush() (pending, error) {
	w.mu.Lock()
	p, fenced := w.pending, w.fenced
	w.pending = pending{}
	w.flushing = true
	w.mu.Unlock()
	if fenced {
		w.closeFile()
		return pending{}, nil
	}
	if len(p.records) == 0 {
		return p, nil
	}
	err := w.open()
	if err == nil {
		_, err = w.file.WriteAt(p.records, w.size)
	}
	if err == nil {
		err = w.file.Sync()
	}
	if err == nil {
		return p, nil
	}
	w.unflush(p, err)
	return pending{}, err
}

// unflush puts back output that could not be made durable; the next flush retries it.
func (w *Writer) unflush(p pending, err error) {
	if w.file != nil { // remove a part that was written
		_ = w.file.Truncate(w.size)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = spaceError(fmt.Errorf("write the log: %w", err))
	if w.fenced {
		return
	}
	at := int64(len(p.records))
	for _, m := range w.pending.marks {
		p.marks = append(p.marks, seek{m.offset, at + m.pos})
	}
	if len(w.pending.records) > 0 {
		p.position = w.pending.position
	}
	if w.pending.end != (point{}) {
		p.end = w.pending.end
	}
	p.records = append(p.records, w.pending.records...)
	p.data = append(p.data, w.pending.data...)
	w.pending = p
}

// open opens the segment to append to: the last one, cut after its last whole record, or a new one.
func (w *Writer) open() error {
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	if w.l.removed {
		return ErrNotFound
	}
	return w.openSegment()
}

// openSegment is open for a caller that holds the log's mu.
func (w *Writer) openSegment() error {
	l := w.l
	if l.uncut && w.file == nil {
		if err := l.cut(l.length); err != nil {
			return err
		}
	}
	var last *segment
	if n := len(l.segs); n > 0 {
		last = l.segs[n-1]
	}
	if last != nil && last.size < l.store.opts.SegmentBytes {
		if w.file != nil {
			return nil
		}
		f, err := l.store.fs.OpenFile(last.path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if err := f.Truncate(last.size); err != nil {
			_ = f.Close()
			return err
		}
		w.file, w.size = f, last.size
		return nil
	}
	if err := w.cutTail(last); err != nil {
		return err
	}
	h := header{epoch: w.epoch, offset: uint64(l.length), raw: uint64(l.raw)}
	if last != nil {
		h.index = last.header.index + 1
	}
	path := filepath.Join(l.store.opts.Dir, segmentName(l.key, h.index))
	f, err := l.store.fs.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(h.encode(), 0); err != nil {
		_ = f.Close()
		_ = l.store.fs.Remove(path)
		return err
	}
	l.segs = append(l.segs, &segment{path: path, header: h, size: headerSize})
	w.file, w.size, w.dirDirty = f, headerSize, true
	return nil
}

// cutTail ends the use of a full segment. It first removes what a crash has left after the last
// whole record: every segment but the last must be whole.
func (w *Writer) cutTail(last *segment) error {
	if w.file == nil && last != nil {
		f, err := w.l.store.fs.OpenFile(last.path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		w.file = f
		if err := errors.Join(f.Truncate(last.size), f.Sync()); err != nil {
			w.closeFile()
			return err
		}
	}
	w.closeFile()
	return nil
}

// publish makes flushed output part of the log, and visible unless the log is replicated.
func (w *Writer) publish(p pending) {
	l := w.l
	grown := false
	l.mu.Lock()
	if !w.isFenced() {
		seg := l.segs[len(l.segs)-1]
		for _, m := range p.marks {
			seg.note(m.offset, w.size+m.pos)
		}
		w.size += int64(len(p.records))
		seg.size = w.size
		_, _ = l.sum.Write(p.data)
		l.keepTail(p.data)
		l.length += int64(len(p.data))
		l.raw, l.truncated = p.raw, p.truncated
		if w.trail.reach(l.visible); p.end != (point{}) {
			w.trail.add(p.end)
		}
		if !w.replicated {
			l.show(l.length)
		}
		grown = w.replicated
	}
	l.mu.Unlock()
	if notify := l.store.opts.Grown; grown && notify != nil {
		notify(l.key)
	}
	w.mu.Lock()
	w.err = nil
	w.mu.Unlock()
}

func (w *Writer) isFenced() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.fenced
}

// notifyFlushed ends a flush and wakes the waiters.
func (w *Writer) notifyFlushed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.flushing = false
	close(w.flushed)
	w.flushed = make(chan struct{})
}

func (w *Writer) closeFile() {
	if w.file != nil {
		_ = w.file.Close()
		w.file = nil
	}
}
