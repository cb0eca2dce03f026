package logs

import (
	"errors"
	"io"
	"os"
)

// Records returns durable records of output from offset on, which must be the end of a record, and
// the records of positions before each of them. It returns about budget bytes. It returns at least
// one record of output if offset is before the end of the log.
func (s *Store) Records(key Key, offset int64, budget int) ([]record, error) {
	l, err := s.get(key, false)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	if l.removed {
		l.mu.Unlock()
		return nil, ErrNotFound
	}
	if offset >= l.length {
		l.mu.Unlock()
		return nil, nil
	}
	seg, at := l.find(offset)
	size := seg.size
	l.mu.Unlock()
	out, err := s.records(seg.path, at, size, offset, budget)
	if err != nil {
		return nil, l.readError(seg, offset, err)
	}
	if len(out) > 0 && offset == int64(seg.header.offset) && s.opts.Extended() {
		// A record of the position may be at the end of the segment before.
		out = append([]record{position{raw: int64(seg.header.raw)}.record()}, out...)
	}
	return out, nil
}

func (s *Store) records(path string, at seek, size, offset int64, budget int) ([]record, error) {
	f, err := s.fs.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for extra := int64(seekStep + 2*inputStep); ; extra = 2 * (extra + maxPayload) {
		n := min(size-at.pos, int64(budget)+extra)
		src, err := newBlock(f, at.pos, n)
		if err != nil {
			return nil, err
		}
		out, err := parseRecords(src, at, size, offset, budget)
		switch {
		case len(out) > 0: // ignore err: the next call starts at the failed record
			return out, nil
		case n == size-at.pos:
			return nil, err
		}
	}
}

// parseRecords returns the records from offset on that are whole in src.
func parseRecords(src block, at seek, size, offset int64, budget int) (out []record, err error) {
	var before []record // positions that no output follows yet
	for got := 0; at.pos < size && (got == 0 || got < budget); {
		r, next, err := readRecord(src, at.pos)
		if err != nil {
			return out, err
		}
		at.pos = next
		switch {
		case r.kind == kindPosition && at.offset >= offset:
			before = append(before, r)
		case r.kind != kindData:
		case at.offset >= offset:
			out = append(append(out, before...), r)
			before = nil
			got += len(r.payload)
			at.offset += int64(len(r.payload))
		default:
			at.offset += int64(len(r.payload))
		}
	}
	return out, nil
}

// encodeRecords encodes records as in a segment. length is the number of payload bytes.
func encodeRecords(recs []record) (b []byte, length int64) {
	for _, r := range recs {
		b = r.append(b)
		if r.kind == kindData {
			length += int64(len(r.payload))
		}
	}
	return b, length
}

// block is a part of a file that was read at once.
type block struct {
	data []byte
	at   int64
}

func newBlock(f io.ReaderAt, at, size int64) (block, error) {
	data := make([]byte, size)
	n, err := f.ReadAt(data, at)
	if n == len(data) || errors.Is(err, io.EOF) {
		err = nil
	}
	return block{data[:n], at}, err
}

// ReadAt reads at a position of the file, within the block.
func (b block) ReadAt(p []byte, at int64) (int, error) {
	if at < b.at || at >= b.at+int64(len(b.data)) {
		return 0, io.EOF
	}
	n := copy(p, b.data[at-b.at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
