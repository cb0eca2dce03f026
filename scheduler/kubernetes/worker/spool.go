package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// segmentBytes is the amount of output in one file.
const segmentBytes = 4 << 20

// minSpoolBytes is the least amount of output that a worker keeps. The output that the owner can
// acknowledge may be up to 4 MiB behind, once the limit of the log is reached (logs.Writer.Held), and
// further behind while the beginning of a large secret is held back. One segment more must fit.
const minSpoolBytes = 16 << 20

var (
	errGone   = errors.New("this output is no longer kept")
	errBeyond = errors.New("there is no such output yet")
)

// spool keeps output in files of segmentBytes, whose names are the offset of their first byte.
// Acknowledged output stays as long as there is room, because another owner may not have it yet.
type spool struct {
	dir   string
	limit int64

	mu       sync.Mutex
	cond     chan struct{} // closed and replaced at each change
	file     *os.File      // of the last segment
	first    int64         // offset of the oldest byte that is kept
	length   int64
	acked    int64
	complete bool
	err      error
}

func openSpool(dir string, limit int64) (*spool, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the output: %w", err)
	}
	return &spool{dir: dir, limit: max(limit, 2*segmentBytes), cond: make(chan struct{})}, nil
}

func (s *spool) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	return err
}

// write appends output. It blocks while the limit is reached and the oldest segment is not
// acknowledged.
func (s *spool) write(ctx context.Context, p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n, wait, err := s.append(p)
		written += n
		p = p[n:]
		if err != nil {
			return written, err
		}
		if wait == nil {
			continue
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return written, fmt.Errorf("wait for the output to be fetched: %w", context.Cause(ctx))
		}
	}
	return written, nil
}

// append writes up to the end of a segment. If wait is not nil, there is no room until it is
// closed.
func (s *spool) append(p []byte) (n int, wait <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return 0, nil, s.err
	}
	inSegment := s.length % segmentBytes
	if inSegment == 0 {
		for s.length-s.first >= s.limit && s.first+segmentBytes <= s.acked {
			if err := os.Remove(s.path(s.first)); err != nil {
				s.err = fmt.Errorf("make room for output: %w", err)
				return 0, nil, s.err
			}
			s.first += segmentBytes
		}
		if s.length-s.first >= s.limit {
			return 0, s.cond, nil
		}
		if err := s.next(); err != nil {
			s.err = err
			return 0, nil, err
		}
	}
	p = p[:min(int64(len(p)), segmentBytes-inSegment)]
	n, err = s.file.Write(p)
	s.length += int64(n)
	if err != nil {
		s.err = fmt.Errorf("store the output: %w", err)
	}
	s.changed()
	return n, nil, s.err
}

func (s *spool) next() error {
	if s.file != nil {
		if err := s.file.Close(); err != nil {
			return fmt.Errorf("store the output: %w", err)
		}
		s.file = nil
	}
	f, err := os.OpenFile(s.path(s.length), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("store the output: %w", err)
	}
	s.file = f
	return nil
}

func (s *spool) path(offset int64) string { return filepath.Join(s.dir, fmt.Sprintf("%016x", offset)) }

func (s *spool) changed() {
	close(s.cond)
	s.cond = make(chan struct{})
}

// ack records that the owner has stored all output before offset.
func (s *spool) ack(offset int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset > s.length {
		return errBeyond
	}
	if offset > s.acked {
		s.acked = offset
		s.changed()
	}
	return nil
}

// finish records that the output is complete.
func (s *spool) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complete = true
	s.changed()
}

func (s *spool) size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.length
}

// check returns an error if reading cannot begin at offset.
func (s *spool) check(offset int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case offset < s.first:
		return errGone
	case offset > s.length || offset < 0:
		return errBeyond
	}
	return nil
}

// copy writes the output from offset on to w, and calls flush after each piece. It returns when the
// output is complete, on an error, or when ctx ends.
func (s *spool) copy(ctx context.Context, w io.Writer, flush func() error, offset int64) error {
	for {
		s.mu.Lock()
		first, length, complete, cond := s.first, s.length, s.complete, s.cond
		s.mu.Unlock()
		switch {
		case offset < first:
			return errGone
		case offset < length:
			n, err := s.copySegment(w, offset, length)
			offset += n
			if err == nil {
				err = flush()
			}
			if err != nil {
				return err
			}
			continue
		case complete:
			return nil
		}
		select {
		case <-cond:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *spool) copySegment(w io.Writer, offset, length int64) (int64, error) {
	start := offset / segmentBytes * segmentBytes
	f, err := os.Open(s.path(start))
	if errors.Is(err, os.ErrNotExist) {
		return 0, errGone
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // only read
	return io.Copy(w, io.NewSectionReader(f, offset-start, min(length, start+segmentBytes)-offset))
}
