package logs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/image-builder-ha/image-builder/faults"
)

// errNotCut means that the disk has refused to remove the end of a log. In memory the log has
// ended.
var errNotCut = errors.New("cannot remove the end of the log")

// cut removes everything after length, which must be the end of a record, and writes the fence
// again. The change is durable when cut returns. The caller holds mu; there must be no writer.
//
// cut reads the part that it keeps before it changes anything, so that a failed read changes
// nothing. If the disk fails after that, cut returns errNotCut: the log ends at length in memory,
// and uncut makes the next write remove the rest first.
func (l *attemptLog) cut(length int64) error {
	if faults.Mutant("cut-before-reading") {
		l.segs = nil
	}
	kept, pos, err := l.prefix(length)
	if err != nil {
		return err
	}
	l.rest = slices.Concat(l.segs[len(kept.segs):], l.rest)
	l.segs, l.length, l.raw, l.sum, l.tail = kept.segs, kept.length, kept.raw, kept.sum, nil
	l.truncated = kept.truncated
	last := l.segs[len(l.segs)-1]
	last.size, l.uncut = pos, true
	for i, later := range slices.Backward(l.rest) { // the last one first: a crash leaves a whole log
		if err := l.store.fs.Remove(later.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%w: %w", errNotCut, err)
		}
		l.rest = l.rest[:i]
	}
	size, err := l.endSegment(last)
	if err != nil {
		return fmt.Errorf("%w: %w", errNotCut, spaceError(err))
	}
	last.size, l.uncut = size, false
	return nil
}

// endSegment ends the file of the last segment at the size of the segment and the fence of the log.
// It returns the new size.
func (l *attemptLog) endSegment(last *segment) (size int64, err error) {
	f, err := l.store.fs.OpenFile(last.path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	end := l.identity()
	size = last.size + int64(len(end))
	// The fence replaces bytes that are to be removed, so that no crash leaves a log without a
	// fence.
	if _, err := f.WriteAt(end, last.size); err != nil {
		_ = f.Close()
		return 0, err
	}
	return size, errors.Join(f.Truncate(size), f.Sync(), f.Close(), l.store.fs.SyncDir(l.store.opts.Dir))
}

// identity returns the records that the rest of a log must have.
func (l *attemptLog) identity() []byte {
	b := fenceRecord(l.epoch).append(nil)
	if l.incarnation != 0 {
		b = incarnationRecord(l.incarnation).append(b)
	}
	return b
}

// prefix reads the first length bytes of the log, without a change of the log. It returns the state
// of a log that ends there, and the position in its last segment at which it ends. The caller holds
// mu.
func (l *attemptLog) prefix(length int64) (kept *attemptLog, pos int64, err error) {
	kept = &attemptLog{key: l.key, store: l.store, mu: newLock(), sum: xxhash.New()}
	for _, seg := range l.segs {
		if len(kept.segs) > 0 && kept.length == length {
			break
		}
		if pos, err = l.readPrefix(kept, seg, length); err != nil {
			return nil, 0, fmt.Errorf("cut the log at offset %d: %w", length, err)
		}
	}
	if kept.length != length || len(kept.segs) == 0 {
		return nil, 0, fmt.Errorf("cut the log: offset %d is not the end of a record", length)
	}
	return kept, pos, nil
}

// readPrefix adds the records of a segment to kept, up to length. It returns the position after the
// last one.
func (l *attemptLog) readPrefix(kept *attemptLog, seg *segment, length int64) (pos int64, err error) {
	f, err := l.store.fs.OpenFile(seg.path, os.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	part := &segment{path: seg.path, header: seg.header, size: seg.size}
	pos = headerSize
	for pos < seg.size && kept.length < length {
		r, next, err := readRecord(f, pos)
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		part.note(kept.length, pos)
		kept.account(r)
		pos = next
	}
	kept.segs = append(kept.segs, part)
	return pos, nil
}
