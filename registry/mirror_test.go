package registry_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// mirrored returns a client for docker.io with a mirror, and proxies in front of both. Both have
// the image library/ubuntu:1; the mirror has it below hub/.
func mirrored(t *testing.T, o registry.Options) (c *registry.Client, mirror, hub *registrytest.Proxy, digest string) {
	t.Helper()
	img := registrytest.RandomImage(t, 2, 4<<10)
	m, h := registrytest.Start(t, registrytest.Options{}), registrytest.Start(t, registrytest.Options{})
	m.Push(t, "hub/library/ubuntu:1", img)
	digest = h.Push(t, "library/ubuntu:1", img)
	mirror, hub = registrytest.NewProxy(t, m), registrytest.NewProxy(t, h)
	o.Dial = registrytest.DialTo(map[string]string{"docker.io": hub.Addr, "mirror.example.com": mirror.Addr})
	o.Insecure = []string{"docker.io", "mirror.example.com"}
	o.Hosts = map[string]registry.HostOptions{"index.docker.io": {Mirrors: []string{"mirror.example.com/hub"}}}
	return newClient(t, o), mirror, hub, digest
}

func TestMirror_IsUsedInsteadOfTheHost(t *testing.T) {
	c, mirror, hub, digest := mirrored(t, registry.Options{})
	img, err := c.Resolve(t.Context(), "ubuntu:1", "", all)
	if err != nil || img.Ref != "docker.io/library/ubuntu@"+digest || !img.Anonymous {
		t.Fatalf("%+v, %v", img, err)
	}
	if mirror.Count(registrytest.Manifests) != 1 || hub.Count(registrytest.All) != 0 {
		t.Errorf("%d requests to the mirror, %d to the host", mirror.Count(registrytest.Manifests), hub.Count(registrytest.All))
	}
}

func TestMirror_FallsBackToTheHost(t *testing.T) {
	for name, fault := range map[string]func(*registrytest.Proxy){
		"it has nothing":     func(p *registrytest.Proxy) { p.Fail(registrytest.Manifests, -1, 404) },
		"it wants a login":   func(p *registrytest.Proxy) { p.Fail(registrytest.All, -1, 401) },
		"it forbids":         func(p *registrytest.Proxy) { p.Fail(registrytest.Manifests, -1, 403) },
		"it fails":           func(p *registrytest.Proxy) { p.Fail(registrytest.All, -1, 500) },
		"it limits":          func(p *registrytest.Proxy) { p.Fail(registrytest.All, -1, 429) },
		"it hangs":           func(p *registrytest.Proxy) { p.Hang(registrytest.All, -1) },
		"it hangs in bodies": func(p *registrytest.Proxy) { p.HangInBody(registrytest.Manifests, -1, 10) },
		"it resets":          func(p *registrytest.Proxy) { p.Reset(registrytest.Manifests, -1, 10) },
		"it talks nonsense": func(p *registrytest.Proxy) {
			p.On(registrytest.Manifests, -1, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { _, _ = w.Write([]byte("<html>")) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, mirror, hub, digest := mirrored(t, registry.Options{Timeout: 2 * time.Second})
			fault(mirror)
			start := time.Now()
			img, err := c.Resolve(t.Context(), "ubuntu:1", "", all)
			if err != nil || img.Digest != digest {
				t.Fatalf("%+v, %v", img, err)
			}
			if n := mirror.Count(registrytest.All); n > 2 {
				t.Errorf("the mirror got %d requests", n)
			}
			if n := hub.Count(registrytest.Manifests); n != 1 {
				t.Errorf("the host got %d requests for manifests", n)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

func TestMirror_GetsNoCredentialOfTheHost(t *testing.T) {
	o := registry.Options{DockerConfigFile: dockerConfig(t, "", [3]string{hubKey, "hub", "secret"})}
	c, mirror, hub, digest := mirrored(t, o)
	mirror.Fail(registrytest.Manifests, -1, 404)
	if img, err := c.Resolve(t.Context(), "ubuntu:1", "", all); err != nil || img.Digest != digest || img.Anonymous {
		t.Fatalf("%+v, %v", img, err)
	}
	for _, r := range mirror.Requests() {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s %s had a credential", r.Method, r.URL)
		}
	}
	if hub.Count(registrytest.Manifests) != 1 {
		t.Error("the host got no request")
	}
}

const hubKey = "https://index.docker.io/v1/"

func TestMirror_OfBlobsFallsBackInCopies(t *testing.T) {
	for name, fault := range map[string]func(*registrytest.Proxy){
		"it has no blobs":    func(p *registrytest.Proxy) { p.Fail(registrytest.Blobs, -1, 404) },
		"it corrupts":        func(p *registrytest.Proxy) { p.Corrupt(registrytest.Blobs, -1) },
		"it hangs in bodies": func(p *registrytest.Proxy) { p.HangInBody(registrytest.Blobs, -1, 10) },
		"nothing":            func(*registrytest.Proxy) {},
	} {
		t.Run(name, func(t *testing.T) {
			dst := registrytest.Start(t, registrytest.Options{})
			_, mirror, hub, digest := mirrored(t, registry.Options{})
			fault(mirror)
			cl := newClient(t, registry.Options{
				Timeout: time.Second,
				Hosts:   map[string]registry.HostOptions{hub.Addr: {Mirrors: []string{mirror.Addr + "/hub"}}},
			})
			img, err := cl.Copy(t.Context(), hub.Addr+"/library/ubuntu@"+digest, all, dst.Addr+"/b", all, &syncBuffer{})
			if err != nil || img.Digest != digest {
				t.Fatalf("%+v, %v", img, err)
			}
			dst.Pull(t, "b@"+digest)
			if name == "nothing" && hub.Count(registrytest.All) != 0 {
				t.Errorf("the host got %d requests", hub.Count(registrytest.All))
			}
		})
	}
}

func TestNew_RefusesBadHosts(t *testing.T) {
	for _, h := range []map[string]registry.HostOptions{
		{"docker.io": {}, "index.docker.io": {}},
		{"docker.io": {Mirrors: []string{"https://mirror.example.com"}}},
		{"docker.io": {Mirrors: []string{""}}},
		{"docker.io": {Mirrors: []string{"mirror.example.com/a:tag"}}},
		{"docker.io": {Concurrency: -1}},
		{"docker.io": {CAFile: "/missing"}},
	} {
		if _, err := registry.New(registry.Options{Hosts: h}); err == nil {
			t.Errorf("%+v was accepted", h)
		}
	}
}

func TestProxy_IsUsedAndDoesNotReachWhatIsForbidden(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	// A forward proxy for plain HTTP gets whole URLs and forwards them to the registry.
	p := registrytest.NewProxy(t, reg)
	t.Setenv("HTTP_PROXY", "") // the test sets its own proxy
	through := func(*http.Request) (*url.URL, error) { return &url.URL{Scheme: "http", Host: p.Addr}, nil }
	c := newClient(t, registry.Options{Proxy: through, Insecure: []string{"registry.example.com", "metadata.google.internal", "169.254.169.254"}})
	if img, err := c.Resolve(t.Context(), "registry.example.com/a:1", "", all); err != nil || img.Digest != digest {
		t.Fatalf("%+v, %v", img, err)
	}
	seen := p.Count(registrytest.All)
	for _, host := range []string{"169.254.169.254", "metadata.google.internal"} {
		_, err := c.Resolve(t.Context(), host+"/a:1", "", all)
		wantKind(t, err, registry.Refused)
		if !strings.Contains(err.Error(), "may not be reached") {
			t.Errorf("error: %v", err)
		}
	}
	if n := p.Count(registrytest.All); n != seen {
		t.Errorf("the proxy got %d requests for forbidden hosts", n-seen)
	}
}
