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

// gate is where nodes and clients reach the registry. It passes everything on
// until it is spoiled; then the rules of its proxy decide.
type gate struct {
	*registrytest.Proxy
	// addr is host:port on the bridge of the hosts.
	addr    string
	spoiled atomic.Bool

	mu     sync.Mutex
	healed chan struct{} // closed by the next heal
}

// newGate listens on a host's address, in front of a registry, until the test
// ends.
func newGate(t testing.TB, host string, reg *registrytest.Registry) *gate {
	t.Helper()
	pass := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "http", Host: reg.Addr})
			pr.Out.Host = pr.In.Host // so that the registry's Locations lead back here
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
	// The proxy remembers every request: it sees those only that it may spoil.
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.spoiled.Load() {
			g.ServeHTTP(w, r)
			return
		}
		pass.ServeHTTP(w, r)
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		_ = srv.Close() // what hangs is to be cut
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the gate of the registry: %v", err)
		}
	})
	return g
}

// hang takes the requests that match and gives no answer. It cuts their
// connections when it is healed.
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

// spoil lets the rules decide that were made since the last heal, for a while.
func (g *gate) spoil(ctx context.Context, d time.Duration) {
	g.spoiled.Store(true)
	wait(ctx, d)
	g.heal()
}

// heal passes all requests on again.
func (g *gate) heal() {
	g.spoiled.Store(false)
	g.Heal()
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.healed)
	g.healed = make(chan struct{})
}
