package registry_test

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

const matrixPassword = "pass-word-7391"

// secured is the registry "example.com" with TLS and one of three ways to log in, behind a proxy
// that injects faults.
type secured struct {
	mode   string
	proxy  *registrytest.Proxy
	opts   registry.Options
	reg    *registrytest.Registry
	digest string
}

func matrix(t *testing.T, mode string) *secured {
	t.Helper()
	users := map[string]string{"user": matrixPassword}
	s := &secured{mode: mode}
	var o registrytest.Options
	if mode == "basic" {
		o.Users = users
	}
	s.reg, s.digest = pushed(t, o, "a:1")
	s.proxy = registrytest.NewProxy(t, s.reg)
	if mode == "token" {
		s.proxy.RequireTokens(users, nil)
	}
	server := httptest.NewTLSServer(s.proxy)
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	s.opts = registry.Options{
		Dial:    registrytest.DialTo(map[string]string{"example.com": server.Listener.Addr().String()}),
		Hosts:   map[string]registry.HostOptions{"example.com": {CAFile: ca}},
		Retries: 1,
		Timeout: 2 * time.Second,
	}
	if mode != "none" {
		s.opts.DockerConfigFile = dockerConfig(t, "", [3]string{"example.com", "user", matrixPassword})
	}
	return s
}

// showsNoSecret fails the test if an error or one of its causes contains a credential.
func showsNoSecret(t *testing.T, err error) {
	t.Helper()
	basic := base64.StdEncoding.EncodeToString([]byte("user:" + matrixPassword))
	for e := err; e != nil; {
		for _, secret := range []string{matrixPassword, basic, "token-"} {
			if text := fmt.Sprintf("%v %+v", e, e); strings.Contains(text, secret) {
				t.Errorf("an error shows %q: %s", secret, text)
			}
		}
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			return
		}
		e = u.Unwrap()
	}
}

func respondWith(contentType, body string) func(http.ResponseWriter, *http.Request, http.Handler) {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write([]byte(body)) // the client may be gone
	}
}

// endless sends spaces until the client disconnects. The size limit must end the transfer before
// the time limit, which is generous because 8 MiB over TLS take time on a busy machine.
func endless(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	w.Header().Set("Content-Type", "application/json")
	spaces := bytes.Repeat([]byte(" "), 1<<20)
	for {
		if _, err := w.Write(spaces); err != nil {
			return
		}
	}
}

func isToken(r *http.Request) bool { return r.URL.Path == "/token" }

func TestMatrix_Resolve(t *testing.T) {
	manifests := registrytest.Manifests
	for _, c := range []struct {
		name     string
		fault    func(*registrytest.Proxy)
		ref      string // "" means a:1
		mode     string // the only mode to test, "" for all
		kind     registry.Kind
		status   int
		message  string
		requests int // for manifests
		least    time.Duration
		most     time.Duration // 0 means two seconds
		timeout  time.Duration // of the client; 0 means the default of matrix
	}{
		{name: "missing tag", ref: "a:2", kind: registry.NotFound, status: 404, message: "not found in the registry (404 MANIFEST_UNKNOWN)", requests: 1},
		{name: "missing repository", ref: "b:1", kind: registry.NotFound, status: 404, message: "not found", requests: 1},
		{name: "401 for what is missing", fault: func(p *registrytest.Proxy) { p.Fail(manifests, -1, 401) }, kind: registry.Unauthorized, status: 401, message: "check the name and the credentials", requests: 1},
		{name: "403", fault: func(p *registrytest.Proxy) { p.Fail(manifests, -1, 403) }, kind: registry.Unauthorized, status: 403, message: "access denied", requests: 1},
		{name: "400", fault: func(p *registrytest.Proxy) { p.Fail(manifests, -1, 400) }, kind: registry.Invalid, status: 400, message: "unexpected response (400)", requests: 1},
		{name: "429", fault: func(p *registrytest.Proxy) { p.Fail(manifests, -1, 429) }, kind: registry.RateLimited, status: 429, message: "limits the rate", requests: 2},
		{name: "429 for longer than there is time", fault: func(p *registrytest.Proxy) {
			p.FailWith(manifests, -1, 429, http.Header{"Retry-After": {"30"}})
		}, kind: registry.RateLimited, status: 429, message: "limits the rate", requests: 1},
		{name: "429 once with Retry-After", fault: func(p *registrytest.Proxy) {
			p.FailWith(manifests, 1, 429, http.Header{"Retry-After": {"1"}})
		}, requests: 2, least: time.Second, most: 2 * time.Second},
		{name: "500", fault: func(p *registrytest.Proxy) { p.Fail(manifests, -1, 500) }, kind: registry.Unavailable, status: 500, message: "the registry fails (500)", requests: 2},
		{name: "503 once", fault: func(p *registrytest.Proxy) { p.Fail(manifests, 1, 503) }, requests: 2},
		{name: "hangs", fault: func(p *registrytest.Proxy) { p.Hang(manifests, -1) }, kind: registry.Unavailable, message: "did not respond in time", requests: 2, most: 3 * time.Second},
		{name: "hangs in the body once", fault: func(p *registrytest.Proxy) { p.HangInBody(manifests, 1, 10) }, requests: 2, most: 2 * time.Second},
		{name: "resets once", fault: func(p *registrytest.Proxy) { p.Reset(manifests, 1, 10) }, requests: 2},
		{name: "an HTML page", fault: func(p *registrytest.Proxy) { p.On(manifests, -1, respondWith("text/html", "<html>")) }, kind: registry.Unsupported, message: "not JSON", requests: 1},
		{name: "another JSON", fault: func(p *registrytest.Proxy) { p.On(manifests, -1, respondWith("application/json", `{"a":1}`)) }, kind: registry.Unsupported, message: "neither an OCI image", requests: 1},
		{name: "schema 1", fault: func(p *registrytest.Proxy) {
			p.On(manifests, -1, respondWith(string(types.DockerManifestSchema1Signed), `{"schemaVersion":1,"name":"a"}`))
		}, kind: registry.Unsupported, message: "schema 1", requests: 1},
		{name: "schema 1 by content alone", fault: func(p *registrytest.Proxy) {
			p.On(manifests, -1, respondWith("application/json", `{"schemaVersion":1,"name":"a"}`))
		}, kind: registry.Unsupported, message: "schema 1", requests: 1},
		{name: "a manifest without end", fault: func(p *registrytest.Proxy) {
			p.On(manifests, -1, endless)
		}, kind: registry.TooLarge, message: "larger than 8 MiB", requests: 1, timeout: 2 * time.Minute, most: 59 * time.Second},
		{name: "redirects in a circle", fault: func(p *registrytest.Proxy) { p.Redirect(manifests, -1, "https://example.com") }, kind: registry.Unsupported, message: "redirects more than 5 times", requests: 5},
		{name: "redirects to a host that is not there", fault: func(p *registrytest.Proxy) { p.Redirect(manifests, -1, "https://gone.example") }, kind: registry.Unavailable, message: "cannot be reached", requests: 1},
		{name: "the token server fails", mode: "token", fault: func(p *registrytest.Proxy) { p.Fail(isToken, -1, 500) }, kind: registry.Unavailable, status: 500, message: "the registry fails"},
		{name: "the token server refuses", mode: "token", fault: func(p *registrytest.Proxy) { p.Fail(isToken, -1, 401) }, kind: registry.Unauthorized, status: 401, message: "access denied"},
		{name: "the token server hangs", mode: "token", fault: func(p *registrytest.Proxy) { p.Hang(isToken, -1) }, kind: registry.Unavailable, message: "did not respond in time", most: 3 * time.Second},
		{name: "the token server talks nonsense", mode: "token", fault: func(p *registrytest.Proxy) { p.On(isToken, -1, respondWith("application/json", `{"token-1":"x"}`)) }, kind: registry.Unavailable, message: "cannot be reached"},
		{name: "the API hangs", fault: func(p *registrytest.Proxy) { p.Hang(registrytest.Pings, -1) }, kind: registry.Unavailable, message: "did not respond in time", most: 3 * time.Second},
		{name: "no API", fault: func(p *registrytest.Proxy) { p.Fail(registrytest.Pings, -1, 404) }, kind: registry.NotFound, status: 404, message: "not found"},
	} {
		for _, mode := range []string{"none", "basic", "token"} {
			if c.mode != "" && c.mode != mode {
				continue
			}
			t.Run(mode+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				s := matrix(t, mode)
				if c.fault != nil {
					c.fault(s.proxy)
				}
				s.opts.Timeout = cmp.Or(c.timeout, s.opts.Timeout)
				cl := newClient(t, s.opts)
				ref, most := c.ref, c.most
				if ref == "" {
					ref = "a:1"
				}
				if most == 0 {
					most = 2 * time.Second
				}
				start := time.Now()
				img, err := cl.Resolve(t.Context(), "example.com/"+ref, "", all)
				took := time.Since(start)
				if c.kind == 0 && (err != nil || img.Digest != s.digest) {
					t.Fatalf("%+v, %v", img, err)
				}
				wantKind(t, err, c.kind)
				showsNoSecret(t, err)
				if e, ok := err.(*registry.Error); ok && (e.StatusCode != c.status || !strings.Contains(e.Error(), c.message)) {
					t.Errorf("status %d, %v; want %d, %q", e.StatusCode, e, c.status, c.message)
				}
				if n := s.proxy.Count(manifests); n != c.requests {
					t.Errorf("%d requests for manifests, want %d", n, c.requests)
				}
				if took < c.least || took > most {
					t.Errorf("took %s, want %s to %s", took, c.least, most)
				}
			})
		}
	}
}
