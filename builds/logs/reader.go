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

	cursor *cursor // nil unless the reader reads from the disk
}

// cursor is a position in the open file of a segment.
type cursor struct {
	file File
	seg  *segment
	pos  int64 // of the next record in file
	at   int64 // its offset
}

// Reader returns a reader of a log that starts at offset. The caller closes it. It returns
// ErrNotFound if there is no such log, and the error of ctx if the disk does not respond until ctx
// ends.
func (s *Store) Reader(ctx context.Context, key Key, offset int64) (*Reader, error) {
	l, err := s.getContext(ctx, key, false)
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
func (s *Store) LiveReader(ctx context.Context, key Key, offset int64) (*Reader, error) {
	r, err := s.Reader(ctx, key, offset)
	if err == nil {
		r.live = true
	}
	return r, err
}

// Next blocks until there are more visible bytes, and returns them with their offset. It returns
// io.EOF at the end of a complete log, and the error of ctx if ctx ends before. The chunk is shared with other readers: do not change it.
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
func (r *Reader) read(ctx context.Context) (out []byte, err error) {
	l := r.l
	if err := l.mu.LockContext(ctx); err != nil {
		return nil, err
	}
	seg, from := l.find(r.offset)
	size, length := seg.size, l.visible
	l.mu.Unlock()
	if c := r.cursor; c == nil || c.seg != seg || c.at > r.offset {
		r.release()
		r.cursor = &cursor{seg: seg, pos: from.pos, at: from.offset}
	}
	// If ctx ends, the read that goes on keeps the cursor.
	c, offset := r.cursor, r.offset
	var chunk []byte
	var failed error
	err = l.store.reads.do(ctx, func() {
		if chunk, failed = c.read(l.store.fs, offset, size, length); failed != nil {
			failed = l.readError(seg, offset, failed)
		}
	}, c.close)
	if err != nil {
		r.cursor = nil
		return nil, err
	}
	if failed == nil && len(chunk) == 0 {
		failed = fmt.Errorf("read the log at offset %d: the segment ends before it", offset)
	}
	return chunk, failed
}

// read reads from offset on, up to the size of the segment and the length of the log. It opens the
// file first.
func (c *cursor) read(fs FS, offset, size, length int64) (out []byte, err error) {
	if c.file == nil {
		if c.file, err = fs.OpenFile(c.seg.path, os.O_RDONLY, 0); err != nil {
			c.file = nil
			return nil, err
		}
	}
	for c.pos < size && c.at < length && len(out) < maxChunk {
		rec, next, err := readRecord(c.file, c.pos)
		if err != nil {
			return nil, err
		}
		if rec.kind == kindData {
			end := c.at + int64(len(rec.payload))
			if begin := offset + int64(len(out)); end > begin {
				out = append(out, rec.payload[max(begin-c.at, 0):]...)
			}
			if rest := offset + int64(len(out)) - length; rest > 0 {
				return out[:int64(len(out))-rest], nil // the rest of the record is not visible yet
			}
			if len(out) > maxChunk {
				// The next call reads the rest of the record again.
				return out, nil
			}
			c.at = end
		}
		c.pos = next
	}
	return out, nil
}

func (c *cursor) close() {
	if c.file != nil {
		_ = c.file.Close()
		c.file = nil
	}
}

// release closes the file, so that a waiting reader holds no file descriptor.
func (r *Reader) release() {
	if r.cursor != nil {
		r.cursor.close()
		r.cursor = nil
	}
}

// Close closes the reader.
func (r *Reader) Close() error {
	r.release()
	r.l.store.metrics.readers.Dec()
	return nil
}
