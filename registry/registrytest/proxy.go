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

// Matcher selects the requests that a fault or a count applies to.
type Matcher func(*http.Request) bool

// All matches every request.
func All(*http.Request) bool { return true }

// Pings matches requests for the root of the API.
func Pings(r *http.Request) bool { return r.URL.Path == "/v2/" }

// Manifests matches requests for manifests.
func Manifests(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }

// Blobs matches requests for stored blobs, but not uploads.
func Blobs(r *http.Request) bool {
	return strings.Contains(r.URL.Path, "/blobs/sha256:")
}

// Uploads matches requests that belong to uploads.
func Uploads(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/uploads/") }

// Method limits a matcher to one HTTP method.
func Method(method string, m Matcher) Matcher {
	return func(r *http.Request) bool { return r.Method == method && m(r) }
}

// Proxy is a proxy in front of a registry. It records every request and injects faults.
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

// fault is a rule for the next requests that match.
type fault struct {
	match Matcher
	times int // remaining uses; negative for no limit
	do    func(w http.ResponseWriter, r *http.Request, next http.Handler)
}

// NewProxy starts a proxy in front of a registry. At the end of the test it stops and ends hanging
// requests.
func NewProxy(t testing.TB, r *Registry) *Proxy {
	t.Helper()
	rp := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "http", Host: r.Addr})
			pr.Out.Host = pr.In.Host // so that Location headers of the registry lead back to the proxy
		},
		// Flush at once, so that streams are not delayed. A client that disconnects is normal.
		FlushInterval: -1,
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	return newProxy(t, rp)
}

// NewHandlerProxy starts a Proxy in front of a handler instead of a registry.
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

// On lets do handle the next requests that match; negative times means all. If several rules match,
// the oldest rule with remaining uses applies.
func (p *Proxy) On(m Matcher, times int, do func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = append(p.faults, &fault{m, times, do})
}

// Heal removes all faults.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.faults = nil
}

// Requests returns all requests so far, without bodies.
func (p *Proxy) Requests() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.requests)
}

// Count returns the number of requests so far that match.
func (p *Proxy) Count(m Matcher) int {
	n := 0
	for _, r := range p.Requests() {
		if m(r) {
			n++
		}
	}
	return n
}

// RequireTokens makes the proxy require bearer tokens. It issues them at /token, to users who log
// in and to anonymous callers. A token is valid for the scopes that allow granted. A request needs
// pull, or push if it writes. A mount also needs pull on its source; without it the mount becomes
// an upload. Call RequireTokens before the first request.
func (p *Proxy) RequireTokens(users map[string]string, allow func(user, repository, action string) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tokens = &tokens{users: users, allow: allow, granted: map[string][]string{}}
}

// Scopes returns the scopes for which tokens were requested so far, in order.
func (p *Proxy) Scopes() []string {
	p.mu.Lock()
	t := p.tokens
	p.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.requested)
}

// ExpireTokens makes all issued tokens invalid.
func (p *Proxy) ExpireTokens() {
	p.mu.Lock()
	t := p.tokens
	p.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.granted)
}

// DialTo returns a dial function that connects to the addresses of hosts, by name. The requested
// port is ignored. docker.io stands for all names of Docker Hub. For every other host the dial
// fails, so that tests stay on loopback.
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
