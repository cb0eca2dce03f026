package logs

import (
	"context"
	"fmt"
	"io"
	"os"
)

// maxChunk is the greatest chunk that a reader returns, in bytes.
const maxChunk = 256 << 10

// Reader reads one log from an offset on. It is not safe for concurrent use.
type Reader struct {
	l      *attemptLog
	offset int64
	live   bool // see LiveReader

	file File // open only while the reader reads from the disk
	seg  *segment
	pos  int64 // of the next record in file
	at   int64 // its offset
}

// Reader returns a reader of a log that starts at offset. The caller closes it. It returns
// ErrNotFound if there is no such log.
func (s *Store) Reader(key Key, offset int64) (*Reader, error) {
	l, err := s.get(key, false)
	if err != nil {
		return nil, err
	}
	if offset < 0 {
		offset = 0
	}
	s.metrics.readers.Inc()
	return &Reader{l: l, offset: offset}, nil
}

// LiveReader is like Reader, for a log whose owner is on this node. Its Next returns ErrMoved at
// the end of a log that is not complete and has no owner here, as after the attempt has moved to
// another node.
func (s *Store) LiveReader(key Key, offset int64) (*Reader, error) {
	r, err := s.Reader(key, offset)
	if err == nil {
		r.live = true
	}
	return r, err
}

// Next blocks until there are more visible bytes, and returns them with their offset. It returns
// io.EOF at the end of a complete log. The chunk is shared with other readers: do not change it.
func (r *Reader) Next(ctx context.Context) (chunk []byte, offset int64, err error) {
	for {
		l := r.l
		if err := l.mu.LockContext(ctx); err != nil {
			return nil, r.offset, err
		}
		switch {
		case l.removed:
			l.mu.Unlock()
			return nil, r.offset, ErrNotFound
		case r.offset < l.visible:
			if at := r.offset - l.tailOffset; at >= 0 && at < int64(len(l.tail)) {
				chunk = l.tail[at:min(l.visible-l.tailOffset, int64(len(l.tail)))]
				l.mu.Unlock()
				r.release()
				return r.deliver(chunk)
			}
			l.mu.Unlock()
			if chunk, err = r.read(ctx); err != nil {
				return nil, r.offset, err
			}
			return r.deliver(chunk)
		case l.sealed:
			l.mu.Unlock()
			return nil, r.offset, io.EOF
		case r.live && l.owner == nil:
			l.mu.Unlock()
			return nil, r.offset, ErrMoved
		}
		changed := l.wait()
		l.mu.Unlock()
		r.release()
		select {
		case <-ctx.Done():
			return nil, r.offset, ctx.Err()
		case <-l.store.sync.done:
			return nil, r.offset, ErrClosed
		case <-changed:
		}
	}
}

func (r *Reader) deliver(chunk []byte) ([]byte, int64, error) {
	chunk = chunk[:min(len(chunk), maxChunk):min(len(chunk), maxChunk)]
	at := r.offset
	r.offset += int64(len(chunk))
	return chunk, at, nil
}

// read reads from the segment that contains the offset, about maxChunk bytes.
func (r *Reader) read(ctx context.Context) ([]byte, error) {
	l := r.l
	if err := l.mu.LockContext(ctx); err != nil {
		return nil, err
	}
	seg, from := l.find(r.offset)
	size, length := seg.size, l.visible
	l.mu.Unlock()
	if r.file == nil || r.seg != seg || r.at > r.offset {
		r.release()
		f, err := l.store.fs.OpenFile(seg.path, os.O_RDONLY, 0)
		if err != nil {
			return nil, l.readError(seg, r.offset, err)
		}
		r.file, r.seg, r.pos, r.at = f, seg, from.pos, from.offset
	}
	var out []byte
	for r.pos < size && r.at < length && len(out) < maxChunk {
		rec, next, err := readRecord(r.file, r.pos)
		if err != nil {
			return nil, l.readError(seg, r.offset, err)
		}
		if rec.kind == kindData {
			end := r.at + int64(len(rec.payload))
			if begin := r.offset + int64(len(out)); end > begin {
				out = append(out, rec.payload[max(begin-r.at, 0):]...)
			}
			if rest := r.offset + int64(len(out)) - length; rest > 0 {
				return out[:int64(len(out))-rest], nil // the rest of the record is not visible yet
			}
			if len(out) > maxChunk {
				// The next call reads the rest of the record again.
				return out, nil
			}
			r.at = end
		}
		r.pos = next
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("read the log at offset %d: the segment ends before it", r.offset)
	}
	return out, nil
}

// release closes the file, so that a waiting reader holds no file descriptor.
func (r *Reader) release() {
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
}

// Close closes the reader.
func (r *Reader) Close() error {
	r.release()
	r.l.store.metrics.readers.Dec()
	return nil
}
