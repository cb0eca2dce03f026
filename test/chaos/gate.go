//go:build faults

package chaos

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// gate is the reverse proxy through which nodes and clients reach the registry. It forwards all
// requests. While it is faulty, the rules of its Proxy apply first.
type gate struct {
	*registrytest.Proxy
	// addr is host:port on the bridge of the hosts.
	addr   string
	faulty atomic.Bool

	mu     sync.Mutex
	healed chan struct{} // closed by the next heal
}

// newGate listens on an address of the test host, in front of a registry, until the test ends.
func newGate(t testing.TB, host string, reg *registrytest.Registry) *gate {
	t.Helper()
	pass := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "http", Host: reg.Addr})
			pr.Out.Host = pr.In.Host // so that Location headers of the registry name this proxy
		},
		FlushInterval: -1,
		Transport:     &http.Transport{MaxIdleConnsPerHost: 256, IdleConnTimeout: time.Minute},
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{Proxy: registrytest.NewHandlerProxy(t, pass), addr: ln.Addr().String(), healed: make(chan struct{})}
	// Proxy records every request, so it gets requests only while the gate is faulty.
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.faulty.Load() {
			g.ServeHTTP(w, r)
			return
		}
		pass.ServeHTTP(w, r)
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		_ = srv.Close() // also closes connections with requests that hang
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the proxy of the registry: %v", err)
		}
	})
	return g
}

// hang adds a rule: matching requests get no response. heal closes their connections.
func (g *gate) hang(m registrytest.Matcher) {
	g.mu.Lock()
	healed := g.healed
	g.mu.Unlock()
	g.On(m, -1, func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		select {
		case <-r.Context().Done():
		case <-healed:
		}
		panic(http.ErrAbortHandler)
	})
}

// late adds a rule: matching requests are forwarded after a delay, or at the next heal.
func (g *gate) late(m registrytest.Matcher, d time.Duration) {
	g.mu.Lock()
	healed := g.healed
	g.mu.Unlock()
	g.On(m, -1, func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-r.Context().Done():
		case <-healed:
		case <-t.C:
		}
		next.ServeHTTP(rw, r)
	})
}

// inject applies the rules for the duration d or until ctx ends, then heals the gate.
func (g *gate) inject(ctx context.Context, d time.Duration) {
	g.faulty.Store(true)
	wait(ctx, d)
	g.heal()
}

// heal removes all rules and forwards all requests again.
func (g *gate) heal() {
	g.faulty.Store(false)
	g.Heal()
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.healed)
	g.healed = make(chan struct{})
}
