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

// resumeGain is the number of bytes after which the count of resumptions restarts, because the
// transfer of a long blob over a bad line breaks often.
const resumeGain = 8 << 20

// source reads a blob from a registry. If a response breaks off or stalls, source requests the rest
// of the blob (RFC 9110, section 14) and continues; from then on it does not use mirrors. It does
// not verify the content.
type source struct {
	c       *Client
	ctx     context.Context // of the transfer
	from    target
	b       blob
	onBreak func(err error, at int64) // called for each break
	// onLongWait is called for a long wait while the registry is not ready. If it is nil, the
	// number of retries is limited instead.
	onLongWait func(error)

	mu     sync.Mutex // the HTTP transport may call Close during Read
	body   io.ReadCloser
	cancel context.CancelFunc // of the body
	stall  *time.Timer        // calls cancel; runs while a read waits for bytes
	closed bool

	read   int64
	breaks int
	gained int64 // bytes read since the first of these breaks
}

func (c *Client) openSource(ctx context.Context, from target, b blob, onBreak func(error, int64)) (*source, error) {
	s := &source{c: c, ctx: ctx, from: from, b: b, onBreak: onBreak}
	return s, s.open()
}

// open requests the blob from the position that has been read. Half of the client's Timeout bounds
// the time until the response begins.
func (s *source) open() error {
	ctx, cancel := context.WithCancel(s.ctx)
	stall := time.AfterFunc(s.c.opts.Timeout/2, cancel)
	var body io.ReadCloser
	err := s.c.withSession(ctx, s.from, func(ctx context.Context, ses *session) error {
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

// skip moves a response to the position that has been read. A registry may ignore Range and send
// the whole blob.
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
		return &kindError{kind: Unavailable, text: "the registry sent a part of the blob that was not requested", temporary: true}
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
				err = nil // the next Read returns the error
			}
			return n, err
		}
		if err := s.resume(err); err != nil {
			return 0, err
		}
	}
}

// readBody reads from the response. The read fails if no byte arrives for half of the client's
// Timeout.
func (s *source) readBody(p []byte) (int, error) {
	s.mu.Lock()
	body, stall, closed := s.body, s.stall, s.closed
	s.mu.Unlock()
	if closed {
		return 0, os.ErrClosed
	}
	stall.Reset(s.c.opts.Timeout / 2) // one timer for all reads, because a layer of 5 GB needs many
	n, err := body.Read(p)
	stall.Stop()
	return n, err
}

// resume opens the blob again after a break. It returns an error if the transfer cannot continue.
func (s *source) resume(broken error) error {
	if s.gained >= resumeGain {
		s.breaks, s.gained = 0, 0
	}
	if s.ctx.Err() != nil || !s.endBody() {
		return broken
	}
	if errors.Is(broken, context.Canceled) {
		broken = &kindError{kind: Unavailable, text: fmt.Sprintf("the transfer stalled for %s", s.c.opts.Timeout/2), temporary: true}
	}
	if s.breaks >= s.c.opts.Retries {
		return &brokenError{broken}
	}
	s.breaks++
	s.onBreak(broken, s.read)
	s.from.mirrors = nil
	return s.c.retryWhileNotReady(s.ctx, 0, s.onLongWait, nil, func(context.Context) error { return s.open() })
}

// endBody closes the current response before the next one is requested. It reports false if the
// source is closed.
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

// Close closes the current response and makes Read fail. It is safe during a Read in another
// goroutine.
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
