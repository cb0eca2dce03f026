package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// newTransport returns a connection pool that trusts the system's certificates and those in the CA
// files.
func newTransport(o Options, skipVerify bool, caFiles ...string) (*http.Transport, error) {
	pool, err := rootCAs(caFiles...)
	if err != nil {
		return nil, err
	}
	return &http.Transport{
		DialContext:            o.Dial,
		Proxy:                  o.Proxy,
		TLSClientConfig:        &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, InsecureSkipVerify: skipVerify},
		TLSHandshakeTimeout:    dialTimeout,
		ForceAttemptHTTP2:      true,
		HTTP2:                  &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
		DisableCompression:     true, // digests are computed over the bytes as sent
		MaxIdleConns:           100,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        60 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}, nil
}

func rootCAs(files ...string) (*x509.CertPool, error) {
	var pool *x509.CertPool
	for _, file := range files {
		if file == "" {
			continue
		}
		if pool == nil {
			var err error
			if pool, err = x509.SystemCertPool(); err != nil {
				pool = x509.NewCertPool()
			}
		}
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the registries' CA certificates: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the registries' CA certificates: %s holds no certificate in PEM", file)
		}
	}
	return pool, nil
}

// wire is the lowest layer of every request, below authentication. So its rules also hold for token
// servers and redirects: hosts that are configured for plain HTTP are contacted by plain HTTP and
// all others by TLS, whatever the URL says; each host has its limits, pauses, CA and circuit
// breaker; a response with status 429 or 5xx becomes a statusError with its Retry-After.
type wire struct {
	opts     *Options
	plain    hostSet
	breakers *breakers
	metrics  *metrics
	shared   *http.Transport
	own      map[string]*http.Transport // of hosts with TLS options of their own, by canonical host
}

func newWire(o *Options, plain hostSet, table hostTable) (*wire, error) {
	w := &wire{opts: o, plain: plain, own: map[string]*http.Transport{}}
	var err error
	if w.breakers, err = newBreakers(*o, table); err != nil {
		return nil, err
	}
	if w.metrics, err = newMetrics(o.Registerer); err != nil {
		return nil, err
	}
	if w.shared, err = newTransport(*o, false, o.CAFile); err != nil {
		return nil, err
	}
	for host, h := range table.hosts {
		if h.CAFile == "" && !h.SkipVerify {
			continue
		}
		if w.own[host], err = newTransport(*o, h.SkipVerify, o.CAFile, h.CAFile); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *wire) closeIdle() {
	w.shared.CloseIdleConnections()
	for _, t := range w.own {
		t.CloseIdleConnections()
	}
}

// of returns the connection pool for a canonical host.
func (w *wire) of(host string) *http.Transport {
	if t := w.own[host]; t != nil {
		return t
	}
	return w.shared
}

func (w *wire) canonical(host string) string { return canonicalHost(host, w.plain.has(host)) }

// RoundTrip implements http.RoundTripper for callers without a credential.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	return caller{w, credential{}.identity(nil)}.RoundTrip(req)
}

// caller is the wire for requests with one credential.
type caller struct {
	*wire
	identity string // of the credential
}

// RoundTrip implements http.RoundTripper. It turns panics into errors, because go-containerregistry
// pings in goroutines of its own.
func (w caller) RoundTrip(req *http.Request) (*http.Response, error) {
	return recoverPanic(req.Context(), func(context.Context) (*http.Response, error) { return w.roundTrip(req) })
}

func (w caller) roundTrip(req *http.Request) (*http.Response, error) {
	host := w.canonical(req.URL.Host)
	req = w.withScheme(req)
	if err := w.opts.proxied(req); err != nil {
		return nil, err
	}
	b := w.breakers.of(host)
	leave, err := b.enter(req.Context(), w.identity, req.ContentLength > maxManifestBytes)
	if err != nil {
		w.metrics.requestRefused(host, err)
		return nil, err
	}
	left := false
	defer func() {
		if !left { // only after a panic
			leave(&kindError{kind: Unavailable})
		}
	}()
	start := time.Now()
	resp, err := w.of(host).RoundTrip(req)
	took := time.Since(start)
	traceOf(req.Context()).recordRequest(req, resp, err, took)
	if err == nil {
		b.pauses.observe(w.identity, resp, start, time.Now())
	}
	left = true
	leave(err)
	w.metrics.requestDone(host, resp, took)
	if err != nil || resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode < 500 {
		return resp, err
	}
	discard(resp)
	return nil, &statusError{code: resp.StatusCode, after: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
}

func (w *wire) withScheme(req *http.Request) *http.Request {
	scheme := "https"
	if w.plain.has(req.URL.Host) {
		scheme = "http"
	}
	if req.URL.Scheme == scheme {
		return req
	}
	r, u := *req, *req.URL
	u.Scheme = scheme
	r.URL = &u
	return &r
}

// discard reads at most 64 KiB of the body and closes it. A connection is reused only if its body
// was read to the end.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	_ = resp.Body.Close()
}
