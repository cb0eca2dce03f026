package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/registry"
)

// pipes is a listener whose connections are pipes in memory, so that a server and its clients can
// run in a synctest bubble.
type pipes struct {
	conns chan net.Conn
	ended chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.ended:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.ended) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// tokenRegistry is a registry of one image that requires tokens and takes a second to issue one. mu
// guards the fields below it.
type tokenRegistry struct {
	life time.Duration

	mu     sync.Mutex
	issued int
	until  time.Time // of the last token
	stale  int       // requests with an expired token, or not with the last one
}

func (r *tokenRegistry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/token" {
		time.Sleep(time.Second)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	token := fmt.Sprint("Bearer token-", r.issued)
	switch {
	case req.URL.Path == "/token":
		r.issued++
		r.until = time.Now().Add(r.life)
		_, _ = fmt.Fprintf(w, `{"token":"token-%d","expires_in":%d}`, r.issued, int(r.life.Seconds())) // the client may be gone
	case req.Header.Get("Authorization") == "":
		w.Header().Set("WWW-Authenticate", `Bearer realm="http://reg.example/token",service="s"`)
		w.WriteHeader(http.StatusUnauthorized)
	default:
		if req.Header.Get("Authorization") != token || time.Now().After(r.until) {
			r.stale++
		}
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		_, _ = io.WriteString(w, `{"schemaVersion":2,"config":{"digest":"sha256:`+strings.Repeat("0", 64)+`","size":2},"layers":[]}`)
	}
}

// TestTokens_AreRenewedShortlyBeforeTheyEnd expects the next caller to renew a token, once for all
// callers, and neither after its end nor earlier than needed.
func TestTokens_AreRenewedShortlyBeforeTheyEnd(t *testing.T) {
	for _, c := range []struct{ life, lead time.Duration }{
		{time.Minute, 10 * time.Second}, {5 * time.Minute, 30 * time.Second}, {50 * time.Minute, 5 * time.Minute}, {10 * time.Second, 5 * time.Second},
	} {
		t.Run(c.life.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reg := &tokenRegistry{life: c.life}
				client, stop := overPipes(t, reg)
				defer stop()
				for n := 1; n <= 3; n++ {
					resolveAtOnce(t, client, 50)
					reg.mu.Lock()
					issued, until := reg.issued, reg.until
					reg.mu.Unlock()
					if issued != n {
						t.Fatalf("%d tokens, want %d", issued, n)
					}
					time.Sleep(time.Until(until.Add(-c.lead)) - 10*time.Millisecond)
					resolveAtOnce(t, client, 50)
					reg.mu.Lock()
					if reg.issued != n {
						t.Errorf("renewed more than %s before its end", c.lead)
					}
					reg.mu.Unlock()
					time.Sleep(time.Until(until.Add(-c.lead)) + 10*time.Millisecond)
				}
				reg.mu.Lock()
				defer reg.mu.Unlock()
				if reg.stale != 0 {
					t.Errorf("%d requests with an expired token", reg.stale)
				}
			})
		})
	}
}

// overPipes returns a client of a registry in memory. stop must be called before the synctest
// bubble ends.
func overPipes(t *testing.T, h http.Handler) (c *registry.Client, stop func()) {
	t.Helper()
	p := &pipes{conns: make(chan net.Conn), ended: make(chan struct{})}
	server := &http.Server{Handler: h}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(p); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	c, err := registry.New(registry.Options{Dial: p.dial, Insecure: []string{"reg.example"}, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	return c, func() {
		if err := errors.Join(c.Close(), server.Close()); err != nil {
			t.Error(err)
		}
		serving.Wait()
	}
}

// resolveAtOnce lets the given number of callers look up different tags at the same time.
func resolveAtOnce(t *testing.T, c *registry.Client, callers int) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			if _, err := c.Resolve(t.Context(), fmt.Sprint("reg.example/a:", i), "", registry.Rights{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
