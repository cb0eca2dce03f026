package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

// resumeGain is how much must have come for the number of resumptions to begin
// anew: a long blob over a bad line breaks often.
const resumeGain = 8 << 20

// source reads a blob from a registry. Where the answer breaks off or stands
// still, it asks for the rest of it (RFC 9110, section 14) and goes on; after
// a break it does not ask mirrors any more. It does not verify.
type source struct {
	c    *Client
	ctx  context.Context // of the transfer
	from target
	b    blob
	told func(err error, at int64) // of each break
	// waits is told of a long wait for a registry that is away; nil where
	// somebody else waits.
	waits func(error)

	mu     sync.Mutex // the transport may close while it reads
	body   io.ReadCloser
	cancel context.CancelFunc // of the body
	stall  *time.Timer        // calls cancel; runs while the body is read
	closed bool

	read   int64
	breaks int
	gained int64 // since the first of these breaks
}

func (c *Client) openSource(ctx context.Context, from target, b blob, told func(error, int64)) (*source, error) {
	s := &source{c: c, ctx: ctx, from: from, b: b, told: told}
	return s, s.open()
}

// open asks for the blob from where it has been read to. The answer gets half of
// the client's Timeout to begin.
func (s *source) open() error {
	ctx, cancel := context.WithCancel(s.ctx)
	stall := time.AfterFunc(s.c.opts.Timeout/2, cancel)
	var body io.ReadCloser
	err := s.c.with(ctx, s.from, func(ctx context.Context, ses *session) error {
		req, err := ses.request(ctx, http.MethodGet, "blobs/"+s.b.Digest.String(), nil, nil)
		if err != nil {
			return err
		}
		if s.read > 0 {
			req.Header.Set("Range", fmt.Sprintf("bytes=%d-", s.read))
		}
		resp, err := ses.do(req, http.StatusOK, http.StatusPartialContent)
		if err != nil {
			return err
		}
		if err := s.skip(resp, stall); err != nil {
			_ = resp.Body.Close()
			return err
		}
		body = resp.Body
		return nil
	})
	if late := !stall.Stop(); late && s.ctx.Err() == nil && (err == nil || errors.Is(err, context.Canceled)) {
		if err == nil {
			_ = body.Close()
		}
		err = context.DeadlineExceeded
	}
	if err != nil {
		cancel()
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = body.Close()
		cancel()
		return os.ErrClosed
	}
	s.body, s.cancel, s.stall = body, cancel, stall
	return nil
}

// skip brings an answer to where the blob has been read to: a registry may
// ignore Range.
func (s *source) skip(resp *http.Response, stall *time.Timer) error {
	if resp.StatusCode == http.StatusOK {
		for left := s.read; left > 0; {
			n, err := io.CopyN(io.Discard, resp.Body, min(left, 1<<20))
			if left -= n; err != nil {
				return err
			}
			stall.Reset(s.c.opts.Timeout / 2)
		}
		return nil
	}
	var first int64
	if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &first); err != nil || first != s.read {
		return &kindError{kind: Unavailable, text: "the registry sent another part of the blob than was asked for", temporary: true}
	}
	return nil
}

// Read implements io.Reader.
func (s *source) Read(p []byte) (int, error) {
	for {
		n, err := s.readBody(p)
		s.read += int64(n)
		s.gained += int64(n)
		if n > 0 || err == nil || err == io.EOF && s.read >= s.b.Size {
			if err != io.EOF || s.read < s.b.Size {
				err = nil // if it broke, the next Read tells
			}
			return n, err
		}
		if err := s.resume(err); err != nil {
			return 0, err
		}
	}
}

// readBody reads with half of the client's Timeout for something to come.
func (s *source) readBody(p []byte) (int, error) {
	s.mu.Lock()
	body, stall, closed := s.body, s.stall, s.closed
	s.mu.Unlock()
	if closed {
		return 0, os.ErrClosed
	}
	stall.Reset(s.c.opts.Timeout / 2) // one timer for all reads: a layer of 5 GB has many
	n, err := body.Read(p)
	stall.Stop()
	return n, err
}

// resume goes on after a break, or answers why not.
func (s *source) resume(broken error) error {
	if s.gained >= resumeGain {
		s.breaks, s.gained = 0, 0
	}
	if s.ctx.Err() != nil || !s.endBody() {
		return broken
	}
	if errors.Is(broken, context.Canceled) {
		broken = &kindError{kind: Unavailable, text: fmt.Sprintf("the transfer stood still for %s", s.c.opts.Timeout/2), temporary: true}
	}
	if s.breaks >= s.c.opts.Retries {
		return &brokenError{broken}
	}
	s.breaks++
	s.told(broken, s.read)
	s.from.mirrors = nil
	return s.c.outlasting(s.ctx, 0, s.waits, nil, func(context.Context) error { return s.open() })
}

// endBody closes the answer before the next one; false if all is closed.
func (s *source) endBody() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.cancel()
	_ = s.body.Close()
	return true
}

// Close ends the answer, and makes Read fail. It may be called while another
// goroutine reads.
func (s *source) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.body == nil {
		s.closed = true
		return nil
	}
	s.closed = true
	s.cancel()
	return s.body.Close()
}
