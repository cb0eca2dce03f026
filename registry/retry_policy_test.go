package registry_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/test/testkit"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// TestRetryPolicy_WaitsForARegistryThatRestarts expects the work of an attempt to wait while the
// registry is not ready, to log this once, and to continue when the registry is back.
func TestRetryPolicy_WaitsForARegistryThatRestarts(t *testing.T) {
	for name, work := range map[string]func(ctx context.Context, c *registry.Client, repo, digest string) error{
		"copy": func(ctx context.Context, c *registry.Client, repo, digest string) error {
			_, err := c.Copy(ctx, repo+"@"+digest, all, repo+"-copy", all, io.Discard)
			return err
		},
		"tag": func(ctx context.Context, c *registry.Client, repo, digest string) error {
			return c.Tag(ctx, repo+"@"+digest, repo+":2", all)
		},
		"head": func(ctx context.Context, c *registry.Client, repo, digest string) error {
			_, err := c.AwaitHead(ctx, repo+"@"+digest, all)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg, digest := pushed(t, registrytest.Options{}, "a:1")
			p := registrytest.NewProxy(t, reg)
			p.On(registrytest.All, -1, func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) })
			var log syncBuffer
			c := newClient(t, registry.Options{Timeout: time.Second, Retries: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
			done := make(chan error, 1)
			go func() { done <- work(t.Context(), c, p.Addr+"/a", digest) }()
			testkit.Eventually(t, 10*time.Second, "the wait is logged", func() bool { return strings.Contains(log.String(), "a build waits for a registry") })
			select {
			case err := <-done:
				t.Fatalf("ended while the registry was not ready: %v", err)
			default:
			}
			p.Heal()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if n := strings.Count(log.String(), "a build waits"); n != 1 {
				t.Errorf("the wait is logged %d times:\n%s", n, log.String())
			}
		})
	}
}

// TestRetryPolicy_WaitsForPausesLongerThanATry lets the registry ask for a pause that is longer
// than the limit of one try.
func TestRetryPolicy_WaitsForPausesLongerThanATry(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	for name, m := range map[string]registrytest.Matcher{
		"to read":  registrytest.Method(http.MethodGet, registrytest.Manifests),
		"to look":  registrytest.Method(http.MethodHead, registrytest.Manifests),
		"to write": registrytest.Method(http.MethodPut, registrytest.Manifests),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := registrytest.NewProxy(t, reg)
			p.FailWith(m, 1, http.StatusTooManyRequests, http.Header{"Retry-After": {"2"}})
			c := newClient(t, registry.Options{Timeout: time.Second})
			if _, err := c.Copy(t.Context(), p.Addr+"/a@"+digest, all, p.Addr+"/"+strings.ReplaceAll(name, " ", "-"), all, io.Discard); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRetryPolicy_EndsWithItsContext cancels the context during a pause.
func TestRetryPolicy_EndsWithItsContext(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	p := registrytest.NewProxy(t, reg)
	p.FailWith(registrytest.Manifests, -1, http.StatusServiceUnavailable, http.Header{"Retry-After": {"3600"}})
	c := newClient(t, registry.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Tag(ctx, p.Addr+"/a@"+digest, p.Addr+"/a:2", all) }()
	testkit.Eventually(t, 10*time.Second, "the registry asked for a pause", func() bool { return p.Count(registrytest.Manifests) == 1 })
	cancel()
	wantKind(t, <-done, registry.Unavailable)
}

// TestRetryPolicy_EndsAtPermanentErrors expects errors that waiting does not change to be returned
// at once.
func TestRetryPolicy_EndsAtPermanentErrors(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	for status, kind := range map[int]registry.Kind{400: registry.Invalid, 401: registry.Unauthorized, 403: registry.Unauthorized, 404: registry.NotFound, 500: registry.Unavailable} {
		p := registrytest.NewProxy(t, reg)
		p.Fail(registrytest.Manifests, -1, status)
		c := newClient(t, registry.Options{Retries: 1})
		_, err := c.AwaitHead(t.Context(), p.Addr+"/a:1", all)
		wantKind(t, err, kind)
		wantKind(t, c.Tag(t.Context(), p.Addr+"/a@"+digest, p.Addr+"/a:2", all), kind)
	}
	c := newClient(t, registry.Options{Dial: registrytest.DialTo(nil)})
	_, err := c.AwaitHead(t.Context(), "nowhere.example.com/a:1", all)
	wantKind(t, err, registry.Unavailable)
	if dns := (*net.DNSError)(nil); !errors.As(err, &dns) || !dns.IsNotFound {
		t.Errorf("error %v does not say that the host does not exist", err)
	}
}

// TestRetryPolicy_BoundsBrokenTransfers expects a copy to fail after its retries if the registry
// responds but breaks off each transfer.
func TestRetryPolicy_BoundsBrokenTransfers(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	for name, fault := range map[string]func(from, to *registrytest.Proxy){
		"read": func(from, _ *registrytest.Proxy) { from.Reset(registrytest.Blobs, -1, 1) },
		"write": func(_, to *registrytest.Proxy) {
			to.On(registrytest.Method(http.MethodPut, registrytest.Uploads), -1, func(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) })
		},
		"answer": func(_, to *registrytest.Proxy) {
			to.On(registrytest.Method(http.MethodPut, registrytest.Uploads), -1, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.WriteHeader(http.StatusGatewayTimeout)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := registrytest.NewProxy(t, reg), registrytest.NewProxy(t, reg)
			fault(from, to)
			c := newClient(t, registry.Options{Retries: 1})
			_, err := c.Copy(t.Context(), from.Addr+"/a@"+digest, all, to.Addr+"/"+name, all, io.Discard)
			wantKind(t, err, registry.Unavailable)
		})
	}
}
