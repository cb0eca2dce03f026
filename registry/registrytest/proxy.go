package registrytest

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Matcher says which requests a fault or a count is about.
type Matcher func(*http.Request) bool

// All matches every request.
func All(*http.Request) bool { return true }

// Pings matches requests for the API's root.
func Pings(r *http.Request) bool { return r.URL.Path == "/v2/" }

// Manifests matches requests about manifests.
func Manifests(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }

// Blobs matches requests about blobs that are there, but not uploads.
func Blobs(r *http.Request) bool {
	return strings.Contains(r.URL.Path, "/blobs/sha256:")
}

// Uploads matches requests of uploads.
func Uploads(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/uploads/") }

// Method narrows a matcher to one HTTP method.
func Method(method string, m Matcher) Matcher {
	return func(r *http.Request) bool { return r.Method == method && m(r) }
}

// Proxy stands in front of a registry, sees every request, and misbehaves as
// it is told.
type Proxy struct {
	// Addr is host:port, to be used as the registry's host.
	Addr string

	next   http.Handler
	server *httptest.Server
	gone   chan struct{}

	mu       sync.Mutex
	faults   []*fault
	requests []*http.Request
	tokens   *tokens
}

// fault is a rule: what to do with the next requests that match.
type fault struct {
	match Matcher
	times int // left; negative for always
	do    func(w http.ResponseWriter, r *http.Request, next http.Handler)
}

// NewProxy starts a proxy in front of a registry; it ends with the test, and
// hanging requests with it.
func NewProxy(t testing.TB, r *Registry) *Proxy {
	t.Helper()
	rp := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "http", Host: r.Addr})
			pr.Out.Host = pr.In.Host // so that the registry's Locations lead back here
		},
		// Streams are passed on as they come; a client that goes away is no
		// news.
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	return newProxy(t, rp)
}

// NewHandlerProxy is a Proxy in front of a handler instead of a registry.
func NewHandlerProxy(t testing.TB, next http.Handler) *Proxy {
	t.Helper()
	return newProxy(t, next)
}

func newProxy(t testing.TB, next http.Handler) *Proxy {
	t.Helper()
	p := &Proxy{next: next, gone: make(chan struct{})}
	p.server = httptest.NewServer(p)
	p.Addr = p.server.Listener.Addr().String()
	t.Cleanup(func() {
		close(p.gone)
		p.server.CloseClientConnections()
		p.server.Close()
	})
	return p
}

// ServeHTTP implements http.Handler.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.requests = append(p.requests, r.Clone(context.Background()))
	var chosen *fault
	for _, f := range p.faults {
		if f.times != 0 && f.match(r) {
			f.times--
			chosen = f
			break
		}
	}
	tokens := p.tokens
	p.mu.Unlock()
	switch {
	case chosen != nil:
		chosen.do(w, r, p.next)
	case tokens != nil:
		tokens.serve(w, r, p.next)
	default:
		p.next.ServeHTTP(w, r)
	}
}

// On lets do answer the next requests that match, negative times for all of
// them. Of several rules the oldest that still applies is used.
func (p *Proxy) On(m Matcher, times int, do func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &fault{m, times, do})
}

// Heal forgets all faults.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// Requests are all requests seen so far, without bodies.
func (p *Proxy) Requests() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// Count is how many requests seen so far match.
func (p *Proxy) Count(m Matcher) int {
	n := 0
	for _, r := range p.Requests() {
		if m(r) {
			n++
		}
	}
	return n
}

// DialTo answers a dial function that leads hosts, by name, to addresses; the
// port that was asked for is ignored. docker.io stands for all names that
// Docker Hub is reached by. Every other host is a network error: tests stay on
// loopback.
func DialTo(hosts map[string]string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		if host == "index.docker.io" || host == "registry-1.docker.io" {
			host = "docker.io"
		}
		to, ok := hosts[host]
		if !ok {
			to, ok = hosts[addr]
		}
		if !ok {
			return nil, &net.OpError{Op: "dial", Net: network, Err: &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}}
		}
		var d net.Dialer
		return d.DialContext(ctx, network, to)
	}
}
