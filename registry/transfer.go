package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"sync"
)

// transfer makes one try to copy a blob from src to the destination, and returns how the blob came
// there.
func (cp *copyJob) transfer(ctx context.Context, src target, b blob) (how string, err error) {
	digest := b.Digest.String()
	var location *url.URL
	err = withTimeout(ctx, cp.c.opts.Timeout, func(ctx context.Context) error {
		return cp.c.withSession(ctx, cp.dst, func(ctx context.Context, s *session) error {
			there, err := s.hasBlob(ctx, digest)
			if err != nil || there {
				how = existed
				return err
			}
			location, err = s.startUpload(ctx, digest, cp.dst.from)
			if err == nil && location == nil {
				how = mounted
			}
			return err
		})
	})
	if err != nil {
		return "", destinationError{err}
	}
	if location == nil {
		return how, nil
	}
	return copied, cp.stream(ctx, src, b, location)
}

// hasBlob reports whether the repository has a blob. Some registries return 403 for a missing blob,
// and some do not support HEAD; hasBlob then reports false.
func (s *session) hasBlob(ctx context.Context, digest string) (bool, error) {
	req, err := s.request(ctx, http.MethodHead, "blobs/"+digest, nil, nil)
	if err != nil {
		return false, err
	}
	resp, err := s.do(req, http.StatusOK)
	if err == nil {
		discard(resp)
		return true, nil
	}
	switch examine(err).status {
	case http.StatusNotFound, http.StatusForbidden, http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return false, nil // the upload shows the actual state
	}
	return false, err
}

// startUpload begins the upload of a blob and returns the location to send it to. The location is
// nil if the registry mounted the blob from another repository. If a registry refuses the mount,
// startUpload begins a plain upload.
func (s *session) startUpload(ctx context.Context, digest, from string) (*url.URL, error) {
	var query url.Values
	if from != "" {
		query = url.Values{"mount": {digest}, "from": {from}}
	}
	req, err := s.request(ctx, http.MethodPost, "blobs/uploads/", query, nil)
	if err != nil {
		return nil, err
	}
	resp, err := s.do(req, http.StatusAccepted, http.StatusCreated)
	if err != nil {
		if from != "" && !examine(err).temporary && ctx.Err() == nil {
			return s.startUpload(ctx, digest, "")
		}
		return nil, err
	}
	discard(resp)
	if resp.StatusCode == http.StatusCreated && from != "" {
		return nil, nil
	}
	u, err := resp.Request.URL.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" {
		return nil, &kindError{kind: Unsupported, text: "the registry does not return an upload location"}
	}
	q := u.Query()
	q.Set("digest", digest)
	u.RawQuery = q.Encode()
	return u, nil
}

// stream sends a blob from the source to an upload location of the destination. It fails when no
// byte moves for the client's Timeout, whichever side hangs.
func (cp *copyJob) stream(ctx context.Context, src target, b blob, location *url.URL) error {
	ctx, watch := watchProgress(ctx, cp.c.opts.Timeout)
	defer watch.stop()
	from, err := cp.c.openSource(ctx, src, b, func(err error, at int64) {
		cp.lines.resume(b.role, b.Digest.String(), b.Size, examine(err, src.secrets()...).err, at)
	})
	if err != nil {
		return watch.stallError(err)
	}
	body := &verifyingReader{rc: from, watch: watch, want: b.Digest.Hex, size: b.Size, hash: sha256.New(), throttle: cp.c.throttle}
	defer func() { _ = body.Close() }()
	// Do not use withSession here: it may call upload twice, but the body can be read only once.
	s, _, err := cp.c.session(ctx, cp.dst)
	if err == nil {
		err = s.upload(ctx, location, body, b.Size)
	}
	if err == nil {
		return nil
	}
	// If the destination has responded, its response is the cause. A failed read of the body is then
	// only a consequence, because the transport closes the body.
	if failed := body.failed(); failed != nil && examine(err).status == 0 {
		return watch.stallError(failed)
	}
	return destinationError{watch.stallError(err)}
}

// upload sends the whole blob in one request, which also commits it.
func (s *session) upload(ctx context.Context, location *url.URL, body io.ReadCloser, size int64) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, location.String(), body)
	if err != nil {
		return &kindError{kind: Unsupported, text: "the registry does not return an upload location"}
	}
	if size == 0 {
		req.Body = http.NoBody
	}
	req.ContentLength = size
	req.Header.Set("Content-Type", "application/octet-stream")
	resp, err := s.do(req, http.StatusCreated, http.StatusNoContent)
	if err != nil {
		f := examine(err)
		switch code := f.status; code {
		case 0:
			if f.notReady && f.after == 0 { // the request was sent
				return &brokenError{err}
			}
		case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			if f.after == 0 { // the request was sent, but a gateway did not wait for the response
				return &brokenError{err}
			}
		case http.StatusUnauthorized: // the body is used up; the next try gets a new token
			return &kindError{kind: Unavailable, text: "the registry has ended the login during the upload", temporary: true}
		case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable:
			return &kindError{kind: Unavailable, text: fmt.Sprintf("the registry has lost the upload (%d)", code), temporary: true}
		}
		return err
	}
	discard(resp)
	return nil
}

// verifyingReader reads a blob, reports progress to the watch, and fails if the bytes do not match
// the digest, so that the destination never commits them.
type verifyingReader struct {
	rc       io.ReadCloser
	watch    *watch
	want     string // hex of the SHA-256
	size     int64
	hash     hash.Hash
	read     int64
	throttle func(context.Context, []byte) []byte // waits for bandwidth

	mu  sync.Mutex // the transport may still read after the response
	err error
}

// Read implements io.Reader.
func (v *verifyingReader) Read(p []byte) (int, error) {
	n, err := v.rc.Read(v.throttle(v.watch.ctx, p))
	v.hash.Write(p[:n])
	v.read += int64(n)
	v.watch.moved()
	switch {
	case v.read > v.size, err == io.EOF && v.read < v.size:
		err = &kindError{kind: Unavailable, text: fmt.Sprintf("the registry sent %d of %d bytes", v.read, v.size), temporary: true}
	case v.read == v.size && (err == nil || err == io.EOF):
		// Check before the last byte is passed on: once the destination has all bytes, it commits.
		if err = io.EOF; hex.EncodeToString(v.hash.Sum(nil)) != v.want {
			err = &kindError{kind: Unavailable, text: "the registry sent bytes that do not match the digest", temporary: true}
		} else {
			v.watch.committing(v.size)
		}
	}
	if err != nil && err != io.EOF {
		v.mu.Lock()
		v.err, n = err, 0
		v.mu.Unlock()
		err = &sourceError{err}
	}
	return n, err
}

// Close closes the source.
func (v *verifyingReader) Close() error { return v.rc.Close() }

// failed returns the error with which reading the source failed; nil if it did not.
func (v *verifyingReader) failed() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.err
}
