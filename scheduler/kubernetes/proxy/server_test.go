package proxy_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

const token = "the-token-of-this-pod"

// install is a registry with two users: one of the install and one of a request.
type install struct {
	*registrytest.Registry
	server *httptest.Server
	names  proxy.Names
}

func start(t *testing.T, change func(*proxy.Config)) install {
	t.Helper()
	reg := registrytest.Start(t, registrytest.Options{Users: map[string]string{"install": "install-password", "request": "request-password"}})
	c := &proxy.Config{
		Listen: "127.0.0.1:5000", Token: token, Pull: proxy.Pull{Any: true},
		Push: &proxy.Push{Repository: reg.Addr + "/base"},
		Read: map[string]proxy.Auth{reg.Addr: {User: "request", Password: "request-password"}},
		Own:  map[string]proxy.Auth{reg.Addr: {User: "install", Password: "install-password"}},

		AllowLoopback: true,
	}
	if change != nil {
		change(c)
	}
	s, err := proxy.New(c, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return install{reg, server, proxy.Names{Addr: server.Listener.Addr().String()}}
}

func (i install) client(t *testing.T) *registry.Client {
	t.Helper()
	c, err := registry.New(registry.Options{AllowLoopback: true, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (i install) rights(token string) registry.Rights {
	return registry.Rights{Additional: map[string]registry.Basic{i.names.Addr: {Username: proxy.User, Password: token}}}
}

func must(t *testing.T) func(string, error) string {
	return func(s string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

// Test_Proxy_Copy copies an image through the proxy, as a build of a ref does, and checks that the
// registry has it.
func Test_Proxy_Copy(t *testing.T) {
	i := start(t, nil)
	digest := i.Push(t, "team/app:1", registrytest.RandomImage(t, 3, 1<<20))
	from := must(t)(i.names.Pull(i.Addr + "/team/app@" + digest))
	to := must(t)(i.names.Push(i.Addr + "/base"))
	img, err := i.client(t).Copy(context.Background(), from, i.rights(token), to, i.rights(token), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if img.Digest != digest {
		t.Errorf("copied %s, want %s", img.Digest, digest)
	}
	i.Pull(t, "base@"+digest)
	// The image is nowhere else, and has no tag.
	if d := i.Digest(t, "base:latest"); d != "" {
		t.Errorf("the copy was tagged")
	}
}

// Test_Proxy_ForcedTag pushes by tag with a configuration that forces one.
func Test_Proxy_ForcedTag(t *testing.T) {
	i := start(t, func(c *proxy.Config) { c.Push.Tag = "forced" })
	img := registrytest.RandomImage(t, 2, 1<<16)
	ref, err := name.ParseReference(must(t)(i.names.Push(i.Addr + "/base:of-my-choice")))
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Push(ref, img, remote.WithAuth(&authn.Basic{Username: proxy.User, Password: token})); err != nil {
		t.Fatal(err)
	}
	if got, want := i.Digest(t, "base:forced"), registrytest.Digest(t, img); got != want {
		t.Errorf("the forced tag has %q, want %q", got, want)
	}
	if got := i.Digest(t, "base:of-my-choice"); got != "" {
		t.Errorf("the build chose its tag")
	}
}

// Test_Proxy_Token checks that clients without the token of the pod are refused.
func Test_Proxy_Token(t *testing.T) {
	i := start(t, nil)
	i.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	ref := must(t)(i.names.Pull(i.Addr + "/team/app:1"))
	for _, tok := range []string{"", "another"} {
		if _, err := i.client(t).Head(context.Background(), ref, i.rights(tok)); registry.KindOf(err) != registry.Unauthorized {
			t.Errorf("token %q: %v", tok, err)
		}
	}
	if _, err := i.client(t).Head(context.Background(), ref, i.rights(token)); err != nil {
		t.Errorf("with the token: %v", err)
	}
}

// Test_Proxy_Refusals sends requests to a real registry that a build must not send: they have no
// effect and return nothing.
func Test_Proxy_Refusals(t *testing.T) {
	i := start(t, func(c *proxy.Config) {
		c.Cache = &proxy.Cache{Repository: strings.TrimSuffix(c.Push.Repository, "/base") + "/cache", TagPrefix: "cache-"}
	})
	digest := i.Push(t, "base:taken", registrytest.RandomImage(t, 1, 1<<10))
	host := strings.Replace(i.Addr, ":", "__", 1)
	for _, c := range []struct{ method, path string }{
		{"GET", "/v2/_catalog"},
		{"GET", "/v2/push/" + host + "/base/tags/list"},
		{"GET", "/v2/push/" + host + "/base/manifests/taken"},
		{"PUT", "/v2/push/" + host + "/base/manifests/taken"},
		{"DELETE", "/v2/push/" + host + "/base/manifests/" + digest},
		{"DELETE", "/v2/pull/" + host + "/base/manifests/" + digest},
		{"POST", "/v2/push/" + host + "/other/blobs/uploads/"},
		{"POST", "/v2/cache/" + host + "/cache/blobs/uploads/"},
		{"PUT", "/v2/cache/" + host + "/cache/manifests/cache-1"},
		{"GET", "/v2/push/" + host + "/base/../other/manifests/taken"},
		{"GET", "/v2/push/" + host + "/base%2f..%2fother/manifests/taken"},
		{"GET", "/"},
	} {
		status, _, _ := i.do(t, c.method, i.server.URL+c.path)
		if status != http.StatusForbidden {
			t.Errorf("%s %s: %d", c.method, c.path, status)
		}
	}
	if got := i.Digest(t, "base:taken"); got != digest {
		t.Errorf("base:taken has %q now", got)
	}
}

// Test_Proxy_Mount checks that blobs of other repositories are not mounted: the install could read
// them, but the request may not.
func Test_Proxy_Mount(t *testing.T) {
	i := start(t, nil)
	img := registrytest.RandomImage(t, 1, 1<<10)
	i.Push(t, "secret/app:1", img)
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := layers[0].Digest()
	if err != nil {
		t.Fatal(err)
	}
	host := strings.Replace(i.Addr, ":", "__", 1)
	status, header, _ := i.do(t, "POST", i.server.URL+"/v2/push/"+host+"/base/blobs/uploads/?"+url.Values{"mount": {blob.String()}, "from": {"secret/app"}}.Encode())
	if status != http.StatusAccepted {
		t.Errorf("a mount returned %d, want 202 (an upload)", status)
	}
	at := header.Get("Location")
	if !strings.HasPrefix(at, "/v2/push/"+host+"/base/blobs/uploads/") || strings.Contains(at, "_state") {
		t.Errorf("the upload goes on at %q", at)
	}
	// An upload belongs to its repository, and can be cancelled.
	if status, _, _ := i.do(t, "DELETE", i.server.URL+at+"X"); status != http.StatusNotFound {
		t.Errorf("an upload that is none: %d", status)
	}
	if status, _, _ := i.do(t, "DELETE", i.server.URL+at); status != http.StatusNoContent {
		t.Errorf("give up the upload: %d", status)
	}
}

// Test_Proxy_Credentials checks that reads use the credentials of the request and not those of the
// install.
func Test_Proxy_Credentials(t *testing.T) {
	i := start(t, func(c *proxy.Config) { c.Read = nil })
	i.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	_, err := i.client(t).Head(context.Background(), must(t)(i.names.Pull(i.Addr+"/team/app:1")), i.rights(token))
	if registry.KindOf(err) != registry.Unauthorized {
		t.Errorf("read without a credential: %v", err)
	}
	_, err = i.client(t).Head(context.Background(), must(t)(i.names.Pull("127.0.0.1:1/team/app:1")), i.rights(token))
	if registry.KindOf(err) != registry.Unavailable {
		t.Errorf("a registry that is not there: %v", err)
	}
}

// Test_Proxy_Internal refuses internal addresses unless they are allowed.
func Test_Proxy_Internal(t *testing.T) {
	i := start(t, func(c *proxy.Config) { c.AllowLoopback = false })
	status, _, body := i.do(t, "GET", i.server.URL+"/v2/pull/"+strings.Replace(i.Addr, ":", "__", 1)+"/team/app/manifests/1")
	if status == http.StatusOK || !strings.Contains(body, "may not be reached") {
		t.Errorf("%d %s", status, body)
	}
	if len(i.Requests()) > 1 { // the readiness check of registrytest itself
		t.Errorf("the registry was asked: %v", i.Requests())
	}
}

func (i install) do(t *testing.T, method, url string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(proxy.User, token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}
