package logs

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/image-builder-ha/image-builder/faults"
)

// Fence durably refuses all owners of epochs less than epoch from now on. It returns the length and
// the checksum of this copy. If the log does not exist, Fence creates an empty one, so that the
// fence survives a restart. It returns ErrFenced if an owner of a greater epoch was here before.
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
	if err := l.stopWriter(); err != nil {
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

// Complete ends a log at the length that its copies agreed on. It removes the bytes after that,
// which no reader has seen. If this copy has fewer bytes, Complete records damage and returns
// ErrShort. A second call with the same length does nothing.
func (s *Store) Complete(key Key, length int64) error {
	l, err := s.get(key, true)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.removed {
		return ErrNotFound
	}
	if l.sealed {
		if l.length != length {
			return fmt.Errorf("the log of build %s attempt %d is complete with %d bytes, not %d", key.Build, key.Attempt, l.length, length)
		}
		return nil
	}
	if err := l.stopWriter(); err != nil {
		return err
	}
	if len(l.segs) == 0 && length > 0 {
		return l.damage(fmt.Errorf("%w: its files of %d bytes are not on the disk of this node", ErrShort, length))
	}
	if l.length < length {
		return l.damage(fmt.Errorf("%w: it has %d of %d bytes", ErrShort, l.length, length))
	}
	if length < l.visible {
		return fmt.Errorf("readers have seen the log of build %s attempt %d up to offset %d on this node, so it cannot end at %d", key.Build, key.Attempt, l.visible, length)
	}
	if l.length > length || l.uncut {
		switch err := l.cut(length); {
		case errors.Is(err, errNotCut):
			// Readers can read the bytes before the end although the disk is full. The next process
			// cuts again.
			l.store.opts.Logger.Warn("cannot remove the bytes after the end of a log", "build", key.Build, "attempt", key.Attempt, "err", err)
			l.complete(length)
			return nil
		case err != nil:
			return err
		}
	}
	if len(l.segs) > 0 {
		// This record is not fsynced, and may be missing on a full disk: the replicated state holds
		// the length too.
		payload := binary.BigEndian.AppendUint64(nil, uint64(length))
		_ = l.appendNow(record{kind: kindSeal, payload: binary.BigEndian.AppendUint64(payload, l.sum.Sum64())}, false)
	}
	l.complete(length)
	return nil
}

// complete ends the log at length in memory. The caller holds mu.
func (l *attemptLog) complete(length int64) {
	l.notShort()
	l.sealed = true
	l.tail = nil // readers of a complete log read from the disk
	l.visible, l.end = length, length
	l.wake()
}

// stopWriter fences the writer, which drops its pending output, and waits for a flush that is in
// progress. The caller holds mu, which is released while stopWriter waits.
func (l *attemptLog) stopWriter() error {
	for l.writer != nil {
		w := l.writer
		w.fence()
		l.store.sync.dirty(w, true) // the next flush closes its file
		w.mu.Lock()
		flushing, flushed := w.flushing, w.flushed
		w.mu.Unlock()
		if !flushing {
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
	if l.removed {
		return ErrNotFound
	}
	return nil
}

// appendNow appends a record to a log that has no writer. If durable is set, the record is fsynced
// when appendNow returns. The caller holds mu.
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
		if w.dirDirty {
			if err := l.store.fs.SyncDir(l.store.opts.Dir); err != nil {
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
