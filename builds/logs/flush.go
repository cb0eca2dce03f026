package logs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// flush writes and fsyncs the pending output. It returns the output that may become visible once
// the directory is fsynced too.
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

// cutTail ends the use of a full segment. It first removes the bytes that a crash has left after
// the last whole record: every segment but the last must be whole.
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
