package registry_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

func TestResolve_ByTagAndDigest(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "team/app:1")
	c := newClient(t, registry.Options{})
	repo := reg.Addr + "/team/app"
	for _, ref := range []string{repo + ":1", repo + "@" + digest, repo + ":9@" + digest} {
		got, err := c.Resolve(t.Context(), ref, "", registry.Rights{})
		if err != nil {
			t.Fatalf("resolve %s: %v", ref, err)
		}
		if got.SizeBytes < 8<<10 {
			t.Errorf("%s has %d bytes, want at least those of its layers", ref, got.SizeBytes)
		}
		got.SizeBytes = 0
		want := registry.Image{Ref: repo + "@" + digest, Digest: digest, MediaType: "application/vnd.docker.distribution.manifest.v2+json", Anonymous: true}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("resolve %s (-want +got):\n%s", ref, diff)
		}
	}
}

func TestResolve_OneRequestForAnImageTwoForAnIndex(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:1")
	reg.Push(t, "a:index", registrytest.Index(t, "linux/arm64", "linux/amd64"))
	p := registrytest.NewProxy(t, reg)
	c := newClient(t, registry.Options{})
	if _, err := c.Head(t.Context(), p.Addr+"/a:1", all); err != nil { // so that the ping does not count
		t.Fatal(err)
	}
	for tag, want := range map[string]int{"1": 1, "index": 2} {
		before := p.Count(registrytest.All)
		if _, err := c.Resolve(t.Context(), p.Addr+"/a:"+tag, "", all); err != nil {
			t.Fatal(err)
		}
		if got := p.Count(registrytest.All) - before; got != want {
			t.Errorf("%s took %d requests, want %d", tag, got, want)
		}
	}
}

func TestResolve_IndexToThePlatformsManifest(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	index := registrytest.Index(t, "linux/arm64/v8", "linux/amd64")
	root := reg.Push(t, "multi:1", index)
	im, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, registry.Options{})
	for platform, want := range map[string]string{
		"": im.Manifests[1].Digest.String(), "linux/amd64": im.Manifests[1].Digest.String(), "linux/arm64": im.Manifests[0].Digest.String(),
	} {
		for _, ref := range []string{reg.Addr + "/multi:1", reg.Addr + "/multi@" + root} {
			got, err := c.Resolve(t.Context(), ref, platform, all)
			if err != nil || got.Digest != want || got.Ref != reg.Addr+"/multi@"+want {
				t.Errorf("resolve %s for %q: %+v, %v, want %s", ref, platform, got, err, want)
			}
		}
	}
	_, err = c.Resolve(t.Context(), reg.Addr+"/multi:1", "linux/s390x", all)
	wantKind(t, err, registry.NotFound)
	if !strings.Contains(err.Error(), "it has no image for linux/s390x, only for: linux/arm64, linux/amd64") {
		t.Errorf("the error does not list the available platforms: %v", err)
	}
}

func TestResolve_AliasesOfDockerHub(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "library/ubuntu:latest")
	reg.Push(t, "library/ubuntu:22.04", registrytest.RandomImage(t, 1, 10))
	c := newClient(t, registry.Options{Dial: registrytest.DialTo(map[string]string{"docker.io": reg.Addr}), Insecure: []string{"docker.io"}})
	for _, ref := range []string{"ubuntu", "docker.io/ubuntu", "index.docker.io/library/ubuntu"} {
		got, err := c.Resolve(t.Context(), ref, "", registry.Rights{})
		if err != nil || got.Ref != "docker.io/library/ubuntu@"+digest {
			t.Errorf("resolve %s: %+v, %v", ref, got, err)
		}
	}
}

func TestHead_OfTagDigestAndIndex(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	index := reg.Push(t, "a:2", registrytest.Index(t, "linux/amd64"))
	c := newClient(t, registry.Options{})
	for ref, want := range map[string]string{":1": digest, "@" + digest: digest, ":2": index} {
		got, err := c.Head(t.Context(), reg.Addr+"/a"+ref, all)
		if err != nil || got.Digest != want || got.Ref != reg.Addr+"/a@"+want {
			t.Errorf("head %s: %+v, %v", ref, got, err)
		}
	}
	_, err := c.Head(t.Context(), reg.Addr+"/a:3", all)
	wantKind(t, err, registry.NotFound)
}

func TestHead_SeesThatAnImageWasDeleted(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	c := newClient(t, registry.Options{})
	if _, err := c.Head(t.Context(), reg.Addr+"/a:1", all); err != nil {
		t.Fatal(err)
	}
	reg.Delete(t, "a@"+digest)
	_, err := c.Head(t.Context(), reg.Addr+"/a:1", all)
	wantKind(t, err, registry.NotFound)
}

func TestHead_GetsTheManifestIfHeadReturnsNoDigest(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	p := registrytest.NewProxy(t, reg)
	p.FailWith(registrytest.Method(http.MethodHead, registrytest.Manifests), -1, http.StatusOK, http.Header{"Content-Type": {"text/plain"}})
	c := newClient(t, registry.Options{})
	got, err := c.Head(t.Context(), p.Addr+"/a:1", all)
	if err != nil || got.Digest != digest {
		t.Errorf("head: %+v, %v, want %s", got, err, digest)
	}
}

func TestResolve_ErrorsByKind(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "library/nope:0")
	p := registrytest.NewProxy(t, reg)
	c := newClient(t, registry.Options{
		Dial: registrytest.DialTo(map[string]string{"docker.io": p.Addr}), Insecure: []string{"docker.io"}, Retries: -1,
	})
	for _, x := range []struct {
		status int
		kind   registry.Kind
		text   string
	}{
		{404, registry.NotFound, `resolve image "docker.io/library/nope:1": not found in the registry (404)`},
		{401, registry.Unauthorized, `resolve image "docker.io/library/nope:1": access denied by the registry (401); check the name and the credentials for its host`},
		{403, registry.Unauthorized, `resolve image "docker.io/library/nope:1": access denied by the registry (403); check the name and the credentials for its host`},
		{429, registry.RateLimited, `resolve image "docker.io/library/nope:1": the registry limits the rate of requests (429); try again later`},
		{503, registry.Unavailable, `resolve image "docker.io/library/nope:1": the registry fails (503); try again later`},
		{418, registry.Unsupported, `resolve image "docker.io/library/nope:1": the registry sent an unexpected response (418)`},
	} {
		p.Heal()
		p.Fail(registrytest.Manifests, -1, x.status)
		_, err := c.Resolve(t.Context(), "nope:1", "", all)
		wantKind(t, err, x.kind)
		var e *registry.Error
		if !errors.As(err, &e) || e.StatusCode != x.status || err.Error() != x.text {
			t.Errorf("status %d: %v, want %s", x.status, err, x.text)
		}
	}
	_, err := c.Resolve(t.Context(), "unknown.example.com/a", "", all)
	wantKind(t, err, registry.Unavailable)
	_, err = c.Resolve(t.Context(), "A", "", all)
	wantKind(t, err, registry.Invalid)
	_, err = c.Resolve(t.Context(), "a", "linux", all)
	wantKind(t, err, registry.Invalid)
}

func TestResolve_RefusesLoopbackByDefault(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:1")
	p := registrytest.NewProxy(t, reg)
	c, err := registry.New(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, err = c.Resolve(t.Context(), p.Addr+"/a:1", "", all)
	wantKind(t, err, registry.Refused)
	if n := p.Count(registrytest.All); n != 0 {
		t.Errorf("%d requests reached it", n)
	}
}

func TestResolve_RefusesRedirectsToLoopback(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:1")
	victim, p := registrytest.NewProxy(t, reg), registrytest.NewProxy(t, reg)
	p.Redirect(registrytest.Manifests, -1, "http://"+victim.Addr)
	c, err := registry.New(registry.Options{AllowHosts: []string{p.Addr}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_, err = c.Resolve(t.Context(), p.Addr+"/a:1", "", all)
	wantKind(t, err, registry.Refused)
	if n := victim.Count(registrytest.All); n != 0 {
		t.Errorf("%d requests reached the redirect's target", n)
	}
}

func TestResolve_SharesEqualLookUpsOnly(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:1")
	p := registrytest.NewProxy(t, reg)
	c := newClient(t, registry.Options{Timeout: time.Minute}) // no retries while responses are held
	release := p.Hold(registrytest.Manifests)
	other := registry.Rights{Additional: map[string]registry.Basic{p.Addr: {Username: "u", Password: "p"}}}
	another := registry.Rights{Additional: map[string]registry.Basic{p.Addr: {Username: "u", Password: "q"}}}
	var wg sync.WaitGroup
	for range 20 {
		for _, r := range []registry.Rights{{}, all, other, another} { // the first two are both anonymous
			wg.Go(func() {
				if _, err := c.Resolve(t.Context(), p.Addr+"/a:1", "", r); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Go(func() {
		if _, err := c.Resolve(t.Context(), p.Addr+"/a:1", "linux/arm64", all); err != nil {
			t.Error(err)
		}
	})
	const want = 4 // three credentials, and one more platform
	testkit.Eventually(t, 10*time.Second, "the look-ups are upstream", func() bool { return p.Count(registrytest.Manifests) >= want })
	release()
	wg.Wait()
	// A late caller may have begun after the shared call had ended.
	if got := p.Count(registrytest.Manifests); got > 4*want {
		t.Errorf("%d requests for %d different look-ups", got, want)
	}
}

func TestResolve_ACallerThatLeavesDoesNotAffectOthers(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	p := registrytest.NewProxy(t, reg)
	c := newClient(t, registry.Options{})
	release := p.Hold(registrytest.Manifests)
	ctx, cancel := context.WithCancel(t.Context())
	left, stayed := make(chan error, 1), make(chan registry.Image, 1)
	go func() {
		_, err := c.Resolve(ctx, p.Addr+"/a:1", "", all)
		left <- err
	}()
	testkit.Eventually(t, 10*time.Second, "the first is upstream", func() bool { return p.Count(registrytest.Manifests) == 1 })
	go func() {
		img, err := c.Resolve(t.Context(), p.Addr+"/a:1", "", all)
		if err != nil {
			t.Error(err)
		}
		stayed <- img
	}()
	cancel()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Errorf("the caller that left got %v", err)
	}
	release()
	if img := <-stayed; img.Digest != digest {
		t.Errorf("the caller that stayed got %+v", img)
	}
}

func TestResolve_EndsByItselfWhereverTheRegistryHangs(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:1")
	for name, hang := range map[string]func(*registrytest.Proxy){
		"ping":     func(p *registrytest.Proxy) { p.Hang(registrytest.Pings, -1) },
		"header":   func(p *registrytest.Proxy) { p.Hang(registrytest.Manifests, -1) },
		"body":     func(p *registrytest.Proxy) { p.HangInBody(registrytest.Manifests, -1, 20) },
		"dripping": func(p *registrytest.Proxy) { p.Slow(registrytest.Manifests, -1, 200, 100*time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := registrytest.NewProxy(t, reg)
			hang(p)
			c := newClient(t, registry.Options{Timeout: 300 * time.Millisecond})
			start := time.Now()
			_, err := c.Resolve(t.Context(), p.Addr+"/a:1", "", all)
			wantKind(t, err, registry.Unavailable)
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

func TestResolve_RetriesWhatMayPass(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	for name, fault := range map[string]func(*registrytest.Proxy){
		"429":   func(p *registrytest.Proxy) { p.Fail(registrytest.Manifests, 2, 429) },
		"500":   func(p *registrytest.Proxy) { p.Fail(registrytest.Manifests, 2, 500) },
		"503":   func(p *registrytest.Proxy) { p.Fail(registrytest.Pings, 2, 503) },
		"reset": func(p *registrytest.Proxy) { p.Reset(registrytest.Manifests, 2, 20) },
		"hang":  func(p *registrytest.Proxy) { p.Hang(registrytest.Manifests, 1) },
		"ping":  func(p *registrytest.Proxy) { p.Hang(registrytest.Pings, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := registrytest.NewProxy(t, reg)
			fault(p)
			c := newClient(t, registry.Options{Timeout: 2 * time.Second})
			if got, err := c.Resolve(t.Context(), p.Addr+"/a:1", "", all); err != nil || got.Digest != digest {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestResolve_DoesNotRetryWhatWillNotPass(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:1")
	for _, status := range []int{400, 403, 404} {
		p := registrytest.NewProxy(t, reg)
		p.Fail(registrytest.Manifests, -1, status)
		c := newClient(t, registry.Options{})
		if _, err := c.Resolve(t.Context(), p.Addr+"/a:1", "", all); err == nil {
			t.Errorf("status %d is not an error", status)
		}
		if n := p.Count(registrytest.Manifests); n != 1 {
			t.Errorf("status %d: %d requests, want 1", status, n)
		}
	}
}

func TestResolve_HonoursRetryAfter(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:1")
	p := registrytest.NewProxy(t, reg)
	p.FailWith(registrytest.Manifests, 1, 429, http.Header{"Retry-After": {"1"}})
	c := newClient(t, registry.Options{})
	start := time.Now()
	if _, err := c.Resolve(t.Context(), p.Addr+"/a:1", "", all); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d < time.Second {
		t.Errorf("retried after %v, want 1s or more", d)
	}
}

func TestResolve_DoesNotBeginAPauseThatOutlastsItsLimit(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:1")
	p := registrytest.NewProxy(t, reg)
	p.FailWith(registrytest.Manifests, -1, 429, http.Header{"Retry-After": {"3600"}})
	c := newClient(t, registry.Options{Timeout: 5 * time.Second})
	start := time.Now()
	_, err := c.Resolve(t.Context(), p.Addr+"/a:1", "", all)
	wantKind(t, err, registry.RateLimited)
	if d := time.Since(start); d > 2*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestClose_EndsLookUps(t *testing.T) {
	reg, _ := pushed(t, registrytest.Options{}, "a:1")
	p := registrytest.NewProxy(t, reg)
	p.Hang(registrytest.Manifests, -1)
	c := newClient(t, registry.Options{})
	done := make(chan error, 1)
	go func() {
		_, err := c.Resolve(t.Context(), p.Addr+"/a:1", "", all)
		done <- err
	}()
	testkit.Eventually(t, 10*time.Second, "it hangs", func() bool { return p.Count(registrytest.Manifests) == 1 })
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	wantKind(t, <-done, registry.Unavailable)
	_, err := c.Resolve(t.Context(), p.Addr+"/a:1", "", all)
	wantKind(t, err, registry.Unavailable)
}
