package logs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/image-builder-ha/image-builder/faults"
)

// seekStep is the least distance between two index entries of a segment, in bytes.
const seekStep = 64 << 10

// segment is one file of a log. It describes the durable part only.
type segment struct {
	path   string
	header header
	size   int64 // bytes of whole records, header included
	seeks  []seek
}

// seek is an entry of a segment's index: the record at the file position pos begins at offset.
type seek struct{ offset, pos int64 }

// note adds an index entry if the last one is far enough away.
func (s *segment) note(offset, pos int64) {
	if n := len(s.seeks); n == 0 || pos-s.seeks[n-1].pos >= seekStep {
		s.seeks = append(s.seeks, seek{offset, pos})
	}
}

// attemptLog is one log of the store. The fields after mu describe the durable part.
type attemptLog struct {
	key   Key
	store *Store
	load  sync.Once
	err   error // of load

	mu     lock // held during some changes of the disk
	segs   []*segment
	epoch  uint64
	length int64
	raw    int64
	// truncated means that the limit of the log has dropped output.
	truncated bool
	sum       *xxhash.Digest
	// incarnation identifies this copy; 0 if it has none. See current.
	incarnation uint64
	// visible is the watermark: readers see the bytes before it. All copies of the log have them.
	visible int64
	// held is the last position that all copies of a replicated log have had.
	held position
	// end is the length at which the writer of the current epoch has ended the log; noEnd if it has
	// not. The watermark never rises above it. See freeze.
	end int64
	// uncut means that the disk may still have bytes after the end of the log, and the segments in
	// rest. See cut.
	uncut   bool
	rest    []*segment
	sealed  bool      // the log is complete
	removed bool      // the log is removed
	used    time.Time // time of the last append of another node
	// tail is the newest durable output, for readers at the end of the log.
	tail       []byte
	tailOffset int64
	changed    chan struct{} // closed at the next change; nil if there is no waiter
	writer     *Writer
	owner      *Writer // the writer of the attempt's owner on this node; nil after Leave
}

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

// scan reads the segments of a log. An unreadable end of the last segment was never fsynced; the
// next writer cuts it. Anywhere else it is damage.
func (l *attemptLog) scan(paths []string) error {
	l.sum, l.end = xxhash.New(), noEnd
	for i, path := range paths {
		seg, err := l.scanSegment(path)
		if errors.Is(err, errTorn) && i == len(paths)-1 {
			err = nil
		}
		if disk := (*fs.PathError)(nil); errors.As(err, &disk) { // not damage: the next read may succeed
			return fmt.Errorf("log segment %s: %w", filepath.Base(path), err)
		}
		if err != nil {
			return fmt.Errorf("log segment %s: %w: %w", filepath.Base(path), ErrDamaged, err)
		}
		if seg != nil {
			l.segs = append(l.segs, seg)
		}
	}
	if l.sealed {
		l.visible = l.length
	}
	return nil
}

func (l *attemptLog) scanSegment(path string) (*segment, error) {
	f, err := l.store.fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, headerSize)
	if n, err := f.ReadAt(head, 0); n < headerSize {
		if errors.Is(err, io.EOF) {
			return nil, errTorn // a crash during its creation
		}
		return nil, err
	}
	h, err := decodeHeader(head)
	if err != nil {
		return nil, err
	}
	if int64(h.offset) != l.length || int64(h.raw) != l.raw {
		return nil, fmt.Errorf("it begins at offset %d, but the segment before ends at %d", h.offset, l.length)
	}
	seg := &segment{path: path, header: h, size: headerSize}
	l.epoch = max(l.epoch, h.epoch)
	for {
		r, next, err := readRecord(f, seg.size)
		if errors.Is(err, io.EOF) {
			return seg, nil
		}
		if err != nil {
			return seg, err
		}
		seg.note(l.length, seg.size)
		l.account(r)
		seg.size = next
	}
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

func checksumText(d *xxhash.Digest) string { return fmt.Sprintf("xxh64:%016x", d.Sum64()) }

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
