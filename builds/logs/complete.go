package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/cespare/xxhash/v2"

	"github.com/image-builder-ha/image-builder/faults"
)

// ErrShort: this copy of a log ends before the log does.
var ErrShort = errors.New("this copy of the log is not complete")

// Show moves the watermark of a replicated log: all of its copies hold so many
// bytes. It never moves back.
func (s *Store) Show(key Key, to int64) {
	l, err := s.get(key, false)
	if err != nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.show(to)
}

// Durable answers how many bytes of a log this copy holds.
func (s *Store) Durable(key Key) (length int64, err error) {
	l, err := s.get(key, false)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.length, nil
}

// Fence refuses all owners of older epochs from now on, durably, and answers
// the length and checksum of what this copy holds. A log that does not exist
// is made, empty.
func (s *Store) Fence(key Key, epoch uint64) (length int64, checksum string, err error) {
	l, err := s.get(key, true)
	if err != nil {
		return 0, "", err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sealed {
		return l.length, checksumText(l.sum), nil
	}
	if err := l.rest(); err != nil {
		return 0, "", err
	}
	if epoch < l.epoch {
		return 0, "", ErrFenced
	}
	if (epoch > l.epoch || len(l.segs) == 0) && !faults.Mutant("seal-without-fence") {
		if err := l.appendNow(fenceRecord(epoch), true); err != nil {
			return 0, "", err
		}
		l.epoch = epoch
	}
	return l.length, checksumText(l.sum), nil
}

// Complete ends a log at a length that all copies agreed on: what is behind it
// was never shown and goes. ErrShort says that this copy does not reach it,
// which counts as damage.
func (s *Store) Complete(key Key, length int64) error {
	l, err := s.get(key, true)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return ErrNotFound
	}
	if l.sealed {
		if l.length != length {
			return fmt.Errorf("the log of build %s attempt %d is complete with %d bytes, not %d", key.Build, key.Attempt, l.length, length)
		}
		return nil
	}
	if err := l.rest(); err != nil {
		return err
	}
	if l.length < length {
		return s.damage(key, fmt.Errorf("%w: it has %d of %d bytes", ErrShort, l.length, length))
	}
	if length < l.visible {
		return fmt.Errorf("the log of build %s attempt %d was shown up to %d here and cannot end at %d", key.Build, key.Attempt, l.visible, length)
	}
	if l.length > length {
		if err := l.cut(length); err != nil {
			return err
		}
	}
	if len(l.segs) > 0 {
		// Not fsynced, and no harm if the disk is full: the replicated state knows
		// the length, too.
		payload := binary.BigEndian.AppendUint64(nil, uint64(length))
		_ = l.appendNow(record{kind: kindSeal, payload: binary.BigEndian.AppendUint64(payload, l.sum.Sum64())}, false)
	}
	l.sealed = true
	l.tail = nil // what is complete is read from the disk
	l.visible = length
	l.wake()
	return nil
}

// Checksum answers the checksum of the first bytes of a log.
func (s *Store) Checksum(key Key, length int64) (string, error) {
	l, err := s.get(key, false)
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	whole, sum := l.length == length, checksumText(l.sum)
	l.mu.Unlock()
	if whole {
		return sum, nil
	}
	d := xxhash.New()
	for at := int64(0); at < length; {
		recs, err := s.Records(key, at, 1<<20)
		if err != nil {
			return "", err
		}
		if len(recs) == 0 {
			return "", fmt.Errorf("%w: it ends at byte %d of %d", ErrShort, at, length)
		}
		for _, r := range recs {
			// There may be more records: what is here and not on all copies.
			_, _ = d.Write(r.payload[:max(0, min(int64(len(r.payload)), length-at))])
			at += int64(len(r.payload))
		}
	}
	return checksumText(d), nil
}

func fenceRecord(epoch uint64) record {
	return record{kind: kindFence, payload: binary.BigEndian.AppendUint64(nil, epoch)}
}

// rest drops the writer and what it has pending, and waits for what is on its
// way to the disk. The caller holds mu, which is released in between.
func (l *attemptLog) rest() error {
	for l.writer != nil {
		w := l.writer
		w.fence()
		l.store.sync.dirty(w, true) // which closes its file
		w.mu.Lock()
		flying, flushed := w.flying, w.flushed
		w.mu.Unlock()
		if !flying {
			l.writer = nil
			break
		}
		l.mu.Unlock()
		var err error
		select {
		case <-flushed:
		case <-l.store.sync.done:
			err = ErrClosed
		}
		l.mu.Lock()
		if err != nil {
			return err
		}
	}
	if l.gone {
		return ErrNotFound
	}
	return nil
}

// appendNow writes a record behind the last whole one of a log that has no
// writer. The caller holds mu.
func (l *attemptLog) appendNow(r record, durable bool) error {
	w := newWriter(l, max(l.epoch, epochOf(r)), nil)
	defer w.closeFile()
	if err := w.openSegment(); err != nil {
		return spaceError(err)
	}
	b := r.append(nil)
	if _, err := w.file.WriteAt(b, w.size); err != nil {
		_ = w.file.Truncate(w.size)
		return spaceError(err)
	}
	if durable {
		if err := w.file.Sync(); err != nil {
			return spaceError(err)
		}
		if w.dir {
			if err := l.store.fs.SyncDir(l.store.o.Dir); err != nil {
				return err
			}
		}
	}
	l.segs[len(l.segs)-1].size = w.size + int64(len(b))
	return nil
}

func epochOf(r record) uint64 {
	if r.kind == kindFence && len(r.payload) == 8 {
		return binary.BigEndian.Uint64(r.payload)
	}
	return 0
}

// cut removes what is behind a length, which has to be the end of a record,
// and keeps the fence. The caller holds mu; there is no writer.
func (l *attemptLog) cut(length int64) error {
	seg, at := l.find(length)
	pos, err := l.endOf(seg, at, length)
	if err != nil {
		return err
	}
	var paths []string
	for i, s := range l.segs {
		paths = append(paths, s.path)
		if s != seg {
			continue
		}
		for _, later := range l.segs[i+1:] {
			if err := l.store.fs.Remove(later.path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("cut the log: %w", err)
			}
		}
		break
	}
	f, err := l.store.fs.OpenFile(seg.path, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cut the log: %w", err)
	}
	fence := fenceRecord(l.epoch).append(nil)
	_, werr := f.WriteAt(fence, pos)
	if err := errors.Join(werr, f.Truncate(pos+int64(len(fence))), f.Sync(), f.Close(), l.store.fs.SyncDir(l.store.o.Dir)); err != nil {
		return fmt.Errorf("cut the log: %w", spaceError(err))
	}
	l.segs, l.length, l.raw, l.tail = nil, 0, 0, nil
	return l.scan(paths)
}

// endOf answers the position in a segment behind the record that ends at an
// offset.
func (l *attemptLog) endOf(seg *segment, at seek, offset int64) (int64, error) {
	f, err := l.store.fs.OpenFile(seg.path, os.O_RDONLY, 0)
	if err != nil {
		return 0, fmt.Errorf("cut the log: %w", err)
	}
	defer f.Close()
	for at.offset < offset {
		r, next, err := readRecord(f, at.pos)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, fmt.Errorf("cut the log at offset %d: %w", offset, err)
		}
		if r.kind == kindData {
			at.offset += int64(len(r.payload))
		}
		at.pos = next
	}
	if at.offset != offset {
		return 0, fmt.Errorf("cut the log: offset %d is within a record", offset)
	}
	return at.pos, nil
}
