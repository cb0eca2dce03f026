package logs

import (
	"encoding/binary"
	"slices"

	"github.com/image-builder-ha/image-builder/faults"
)

// wake wakes the waiting readers. The caller holds mu.
func (l *attemptLog) wake() {
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

func (l *attemptLog) wait() <-chan struct{} {
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	return l.changed
}

// account updates the state of the log by a durable record.
func (l *attemptLog) account(r record) {
	switch r.kind {
	case kindData:
		_, _ = l.sum.Write(r.payload)
		l.length += int64(len(r.payload))
		l.raw += int64(r.raw)
	case kindFence:
		if len(r.payload) == 8 {
			l.epoch = max(l.epoch, binary.BigEndian.Uint64(r.payload))
		}
	case kindPosition:
		if p, ok := positionOf(r); ok {
			l.raw, l.truncated = p.raw, p.truncated
		}
	case kindIncarnation:
		if len(r.payload) == 8 {
			l.incarnation = binary.BigEndian.Uint64(r.payload)
		}
	case kindSeal:
		l.sealed = true
	}
}

// position returns the position at the durable end of the log. The caller holds mu.
func (l *attemptLog) position() position {
	return position{l.raw, l.truncated || l.length > l.store.opts.MaxBytes}
}

// find returns the segment that contains offset, and a position at or before offset from which to
// read. The caller holds mu.
func (l *attemptLog) find(offset int64) (*segment, seek) {
	i, _ := slices.BinarySearchFunc(l.segs, offset, func(s *segment, at int64) int {
		if int64(s.header.offset) <= at {
			return -1
		}
		return 1
	})
	seg := l.segs[max(i-1, 0)]
	at := seek{int64(seg.header.offset), headerSize}
	for _, s := range seg.seeks {
		if s.offset >= offset { // a record of a position may be between s and the record before
			break
		}
		at = s
	}
	return seg, at
}

// maxTail is how much durable output is kept in memory at least, in bytes.
const maxTail = 256 << 10

// keepTail appends durable output to the tail. It never overwrites bytes of the tail, because
// readers share them.
func (l *attemptLog) keepTail(data []byte) {
	if l.tail == nil || l.tailOffset+int64(len(l.tail)) != l.length {
		l.tail, l.tailOffset = nil, l.length
	}
	if len(l.tail)+len(data) > cap(l.tail) {
		keep := l.tail[max(len(l.tail)-maxTail, 0):]
		tail := make([]byte, len(keep), min(2*(len(keep)+len(data)), 2*maxTail+len(data)))
		copy(tail, keep)
		l.tailOffset += int64(len(l.tail) - len(keep))
		l.tail = tail
	}
	l.tail = append(l.tail, data...)
}

// show raises the watermark; it never goes back, and never above a frozen end. The caller holds mu.
func (l *attemptLog) show(to int64) {
	if to = min(to, l.length); l.end != noEnd && !faults.Mutant("seal-without-freeze") {
		to = min(to, l.end)
	}
	if to > l.visible {
		l.visible = to
		l.wake()
	}
}
