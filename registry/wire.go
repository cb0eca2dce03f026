package registry

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// newTransport makes the connection pool that all sessions share. It has no
// proxy: the address rules could not see behind one.
func newTransport(o Options) (*http.Transport, error) {
	pool, err := rootCAs(o.CAFile)
	if err != nil {
		return nil, err
	}
	return &http.Transport{
		DialContext:            o.Dial,
		TLSClientConfig:        &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		DisableCompression:     true, // digests are over the bytes as sent
		MaxIdleConns:           100,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        60 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}, nil
}

func rootCAs(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the registries' CA certificates: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read the registries' CA certificates: %s holds no certificate in PEM", file)
	}
	return pool, nil
}

// wire is the lowest layer of every request, below authentication, so that
// its rules hold for token servers and redirects too: the hosts configured for
// plain HTTP are spoken to by that and all others by TLS, whatever a URL says;
// and an answer that says 'not now' becomes a statusError with its
// Retry-After.
type wire struct {
	next  http.RoundTripper
	plain hostSet
}

// RoundTrip implements http.RoundTripper.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	scheme := "https"
	if w.plain.has(req.URL.Host) {
		scheme = "http"
	}
	if req.URL.Scheme != scheme {
		r, u := *req, *req.URL
		u.Scheme = scheme
		r.URL = &u
		req = &r
	}
	resp, err := w.next.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < 500 {
		return resp, err
	}
	discard(resp)
	return nil, &statusError{code: resp.StatusCode, after: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
}

// discard reads a little of the body, so that the connection can be used
// again, and closes it.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	_ = resp.Body.Close()
}

// retryAfter parses the header of RFC 9110, section 10.2.3: seconds or a date.
func retryAfter(header string, now time.Time) time.Duration {
	if seconds, err := strconv.Atoi(header); err == nil && seconds > 0 {
		return min(time.Duration(seconds), 3600) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}
