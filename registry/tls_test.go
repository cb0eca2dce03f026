package registry_test

import (
	"encoding/pem"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// tlsRegistry starts an HTTPS server for the registry "example.com" (the name in its certificate)
// with the image a:1, and returns a file with its CA.
func tlsRegistry(t *testing.T) (addr, caFile, digest string) {
	t.Helper()
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	p := registrytest.NewProxy(t, reg)
	server := httptest.NewTLSServer(p)
	t.Cleanup(server.Close)
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(caFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	return server.Listener.Addr().String(), caFile, digest
}

func TestTLS_TrustsTheConfiguredCA(t *testing.T) {
	addr, ca, digest := tlsRegistry(t)
	dial := registrytest.DialTo(map[string]string{"example.com": addr})
	c := newClient(t, registry.Options{Dial: dial, CAFile: ca})
	if img, err := c.Resolve(t.Context(), "example.com/a:1", "", all); err != nil || img.Digest != digest {
		t.Errorf("with the CA: %+v, %v", img, err)
	}
	c = newClient(t, registry.Options{Dial: dial, RetryBase: time.Minute}) // a retry would take long
	_, err := c.Resolve(t.Context(), "example.com/a:1", "", all)
	wantKind(t, err, registry.Unavailable)
	if !strings.Contains(err.Error(), "certificate") {
		t.Errorf("the error does not mention the certificate: %v", err)
	}
}

func TestTLS_NoPlainHTTPToOtherHosts(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:1")
	// go-containerregistry alone would use plain HTTP for private addresses such as 10.0.0.1.
	for _, host := range []string{"registry.example.com", "10.0.0.1:5000", "sub.localhost:5000"} {
		name, _, err := net.SplitHostPort(host)
		if err != nil {
			name = host
		}
		p := registrytest.NewProxy(t, reg)
		c := newClient(t, registry.Options{Dial: registrytest.DialTo(map[string]string{name: p.Addr}), Retries: -1})
		_, err = c.Resolve(t.Context(), host+"/a:1", "", all)
		wantKind(t, err, registry.Unavailable)
		if n := p.Count(registrytest.All); n != 0 {
			t.Errorf("%s got %d requests by plain HTTP", host, n)
		}
	}
}

func TestTLS_ARedirectToPlainHTTPIsNotFollowedAsSuch(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:1")
	plain, p := registrytest.NewProxy(t, reg), registrytest.NewProxy(t, reg)
	p.Redirect(registrytest.Manifests, -1, "http://other.example.com")
	dial := registrytest.DialTo(map[string]string{"registry.example.com": p.Addr, "other.example.com": plain.Addr})
	c := newClient(t, registry.Options{Dial: dial, Insecure: []string{"registry.example.com"}, Retries: -1})
	_, err := c.Resolve(t.Context(), "registry.example.com/a:1", "", all)
	wantKind(t, err, registry.Unavailable)
	if n := plain.Count(registrytest.All); n != 0 {
		t.Errorf("%d requests by plain HTTP", n)
	}
}
