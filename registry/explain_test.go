package registry_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

func TestExplain_ShowsCredentialsMirrorsRequestsAndChoice(t *testing.T) {
	c, mirror, hub, _ := mirrored(t, registry.Options{
		CacheFor:         time.Minute,
		DockerConfigFile: dockerConfig(t, "", [3]string{hubKey, "hub", "secret"}),
	})
	mirror.Fail(registrytest.Manifests, -1, 404)
	e := c.Explain(t.Context(), "ubuntu:1", "", all)
	if e.Err != nil || !strings.HasPrefix(e.Image.Ref, "docker.io/library/ubuntu@sha256:") || e.Took <= 0 {
		t.Fatalf("%+v", e)
	}
	for i := range e.Endpoints {
		if (e.Endpoints[i].Err != nil) != e.Endpoints[i].Mirror {
			t.Errorf("endpoint %+v", e.Endpoints[i])
		}
	}
	want := registry.Explanation{
		Ref: "docker.io/library/ubuntu:1", Host: "docker.io", Repository: "library/ubuntu", Platform: "linux/amd64",
		Endpoints: []registry.Endpoint{
			{Host: "mirror.example.com", Repository: "hub/library/ubuntu", Mirror: true, Credential: "none"},
			{Host: "docker.io", Repository: "library/ubuntu", Credential: "docker config, entry index.docker.io"},
		},
		Requests: []registry.RequestTrace{
			{Method: "GET", Host: "mirror.example.com", Path: "/v2/", Status: 200},
			{Method: "GET", Host: "mirror.example.com", Path: "/v2/hub/library/ubuntu/manifests/1", Status: 404},
			{Method: "GET", Host: "index.docker.io", Path: "/v2/", Status: 200},
			{Method: "GET", Host: "index.docker.io", Path: "/v2/library/ubuntu/manifests/1", Status: 200},
		},
		Cache: "miss: the registry is queried, and the result is cached for 1m0s or until this node pushes to the repository",
	}
	ignore := cmp.Options{cmpopts.IgnoreFields(registry.Explanation{}, "Image", "Took"), cmpopts.IgnoreFields(registry.Endpoint{}, "Err"), cmpopts.IgnoreFields(registry.RequestTrace{}, "Took")}
	if d := cmp.Diff(want, e, ignore); d != "" {
		t.Error(d)
	}
	if _, err := c.Resolve(t.Context(), "ubuntu:1", "", all); err != nil {
		t.Fatal(err)
	}
	before := hub.Count(registrytest.Manifests)
	if e = c.Explain(t.Context(), "ubuntu:1", "", all); !strings.HasPrefix(e.Cache, "hit, valid for another") {
		t.Errorf("cache rule: %s", e.Cache)
	}
	if hub.Count(registrytest.Manifests) != before+1 {
		t.Error("Explain sent no request")
	}
}

func TestExplain_ShowsWhyAPlatformWasChosen(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "a:1", registrytest.Index(t, "linux/amd64", "linux/arm64", "linux/arm/v7"))
	c := newClient(t, registry.Options{})
	e := c.Explain(t.Context(), reg.Addr+"/a:1", "linux/arm64/v8", all)
	if e.Err != nil || e.Chosen != "entry 2 of 3 is the first for this platform" || !slices.Equal(e.Platforms, []string{"linux/amd64", "linux/arm64", "linux/arm/v7"}) || e.Platform != "linux/arm64" {
		t.Errorf("%+v", e)
	}
	e = c.Explain(t.Context(), reg.Addr+"/a:1", "windows/amd64", all)
	wantKind(t, e.Err, registry.NotFound)
	if e.Chosen != "" || len(e.Platforms) != 3 {
		t.Errorf("%+v", e)
	}
	for _, ref := range []string{"", "user:secret@host/x", "UPPER"} {
		wantKind(t, c.Explain(t.Context(), ref, "", all).Err, registry.Invalid)
	}
}

// verdicts formats checks as "name verdict".
func verdicts(checks []registry.Check) (out []string) {
	for _, c := range checks {
		out = append(out, fmt.Sprintf("%s %s", c.Name, c.Verdict))
	}
	return out
}

func TestDoctor_GoesLayerByLayer(t *testing.T) {
	for _, c := range []struct {
		name   string
		mode   string
		host   string
		change func(*secured)
		want   []string
	}{
		{name: "none", mode: "none", want: []string{"name ok", "connection ok", "certificate ok", "API ok", "credential ok", "login ok"}},
		{name: "basic", mode: "basic", want: []string{"name ok", "connection ok", "certificate ok", "API ok", "credential ok", "login ok"}},
		{name: "token", mode: "token", want: []string{"name ok", "connection ok", "certificate ok", "API ok", "credential ok", "login ok"}},
		{name: "wrong password", mode: "basic", change: func(s *secured) {
			s.opts.DockerConfigFile = dockerConfig(t, "", [3]string{"example.com", "user", "wrong-" + matrixPassword})
		}, want: []string{"name ok", "connection ok", "certificate ok", "API ok", "credential ok", "login failed"}},
		{name: "wrong password for a token", mode: "token", change: func(s *secured) {
			s.opts.DockerConfigFile = dockerConfig(t, "", [3]string{"example.com", "user", "wrong-" + matrixPassword})
		}, want: []string{"name ok", "connection ok", "certificate ok", "API ok", "credential ok", "login failed"}},
		{name: "anonymous", mode: "basic", change: func(s *secured) { s.opts.DockerConfigFile = "" }, want: []string{"name ok", "connection ok", "certificate ok", "API ok", "credential ok", "login warning"}},
		{name: "no CA", mode: "none", change: func(s *secured) { s.opts.Hosts = nil }, want: []string{"name ok", "connection ok", "certificate failed"}},
		{name: "not verified", mode: "none", change: func(s *secured) {
			s.opts.Hosts = map[string]registry.HostOptions{"example.com": {SkipVerify: true}}
		}, want: []string{"name ok", "connection ok", "certificate warning", "API ok", "credential ok", "login ok"}},
		{name: "no such name", mode: "none", host: "gone.example", want: []string{"name ok", "connection failed"}},
		{name: "no host", mode: "none", host: "user:secret@example.com", want: []string{"name failed"}},
		{name: "API fails", mode: "none", change: func(s *secured) { s.proxy.Fail(registrytest.Pings, -1, 502) }, want: []string{"name ok", "connection ok", "certificate ok", "API failed"}},
		{name: "API hangs", mode: "none", change: func(s *secured) { s.proxy.Hang(registrytest.Pings, -1) }, want: []string{"name ok", "connection ok", "certificate ok", "API failed"}},
		{name: "a mirror that is gone", mode: "none", change: func(s *secured) {
			o := s.opts.Hosts["example.com"]
			o.Mirrors = []string{"gone.example/hub"}
			s.opts.Hosts["example.com"] = o
		}, want: []string{"name ok", "connection ok", "certificate ok", "API ok", "credential ok", "login ok", "mirror gone.example: name ok", "mirror gone.example: connection warning"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := matrix(t, c.mode)
			if c.change != nil {
				c.change(s)
			}
			if c.host == "" {
				c.host = "example.com"
			}
			start := time.Now()
			got := newClient(t, s.opts).Doctor(t.Context(), c.host, all)
			if took := time.Since(start); took > 3*time.Second {
				t.Errorf("took %s", took)
			}
			if d := cmp.Diff(c.want, verdicts(got)); d != "" {
				t.Errorf("%s\n%+v", d, got)
			}
			if text := fmt.Sprintf("%+v", got); strings.Contains(text, matrixPassword) || strings.Contains(text, "secret") {
				t.Errorf("shows a secret: %s", text)
			}
		})
	}
}

func TestCache_KeepsResultsForAWhileAndSeesOwnPushes(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	other := reg.Push(t, "a:2", registrytest.RandomImage(t, 1, 1<<10))
	p := registrytest.NewProxy(t, reg)
	c := newClient(t, registry.Options{CacheFor: time.Hour})
	ref := p.Addr + "/a:1"
	look := func(want string, requests int, ask func(context.Context) (registry.Image, error)) {
		t.Helper()
		before := p.Count(registrytest.Manifests)
		img, err := ask(t.Context())
		if err != nil || img.Digest != want {
			t.Errorf("%+v, %v; want %s", img, err, want)
		}
		if n := p.Count(registrytest.Manifests) - before; n != requests {
			t.Errorf("%d requests, want %d", n, requests)
		}
	}
	resolve := func(ctx context.Context) (registry.Image, error) { return c.Resolve(ctx, ref, "", all) }
	head := func(ctx context.Context) (registry.Image, error) { return c.Head(ctx, ref, all) }
	look(digest, 1, resolve)
	look(digest, 0, resolve)
	look(digest, 1, head)
	look(digest, 0, head)
	if err := c.Tag(t.Context(), p.Addr+"/a@"+other, ref, all); err != nil {
		t.Fatal(err)
	}
	look(other, 1, resolve)
	look(other, 1, head)
	look(other, 0, head)
	reg.Push(t, "a:1", registrytest.RandomImage(t, 1, 1<<10)) // by another client
	look(other, 0, head)
	c.Forget(p.Addr + "/a")
	if img, err := head(t.Context()); err != nil || img.Digest == other {
		t.Errorf("after Forget: %+v, %v", img, err)
	}
	for range 2 {
		before := p.Count(registrytest.Manifests)
		_, err := c.Head(t.Context(), p.Addr+"/missing:1", all)
		wantKind(t, err, registry.NotFound)
		if p.Count(registrytest.Manifests) != before+1 {
			t.Error("a missing image was cached")
		}
	}
}

func TestCache_IsNotSharedAmongCredentials(t *testing.T) {
	users := map[string]string{"user": "p"}
	reg := registrytest.Start(t, registrytest.Options{Users: users})
	reg.Push(t, "a:1", registrytest.RandomImage(t, 1, 1<<10))
	c := newClient(t, registry.Options{CacheFor: time.Hour, DockerConfigFile: dockerConfig(t, "", [3]string{reg.Addr, "user", "p"})})
	if _, err := c.Resolve(t.Context(), reg.Addr+"/a:1", "", all); err != nil {
		t.Fatal(err)
	}
	_, err := c.Resolve(t.Context(), reg.Addr+"/a:1", "", registry.Rights{})
	wantKind(t, err, registry.Unauthorized)
	_, err = c.Resolve(t.Context(), reg.Addr+"/a:1", "", registry.Rights{Additional: map[string]registry.Basic{reg.Addr: {Username: "user", Password: "wrong"}}})
	wantKind(t, err, registry.Unauthorized)
}

func TestMetrics_ShowRateLimits(t *testing.T) {
	metrics := prometheus.NewRegistry()
	c, mirror, hub, _ := mirrored(t, registry.Options{Registerer: metrics})
	mirror.Fail(registrytest.Manifests, -1, 404)
	hub.On(registrytest.Manifests, 1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		w.Header().Set("RateLimit-Limit", "100;w=21600")
		w.Header().Set("RateLimit-Remaining", "76;w=21600")
		next.ServeHTTP(w, r)
	})
	if _, err := c.Resolve(t.Context(), "ubuntu:1", "", all); err != nil {
		t.Fatal(err)
	}
	want := `
# HELP image_builder_registry_ratelimit_limit Pulls that a registry allows in its window (RateLimit-Limit).
# TYPE image_builder_registry_ratelimit_limit gauge
image_builder_registry_ratelimit_limit{host="docker.io"} 100
# HELP image_builder_registry_ratelimit_remaining Pulls that are left in the window (RateLimit-Remaining).
# TYPE image_builder_registry_ratelimit_remaining gauge
image_builder_registry_ratelimit_remaining{host="docker.io"} 76
# HELP image_builder_registry_requests_total Requests to registries by host and status; status 0 means no response.
# TYPE image_builder_registry_requests_total counter
image_builder_registry_requests_total{code="200",host="docker.io"} 2
image_builder_registry_requests_total{code="200",host="mirror.example.com"} 1
image_builder_registry_requests_total{code="404",host="mirror.example.com"} 1
`
	if err := testutil.GatherAndCompare(metrics, strings.NewReader(want), "image_builder_registry_ratelimit_limit", "image_builder_registry_ratelimit_remaining", "image_builder_registry_requests_total"); err != nil {
		t.Error(err)
	}
}

// TestHang_OfOneHostDelaysNoOther uses up the concurrency limit of a host that hangs, and expects
// requests to another host not to be delayed.
func TestHang_OfOneHostDelaysNoOther(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	hanging := registrytest.NewProxy(t, reg)
	hanging.Hang(registrytest.All, -1)
	c := newClient(t, registry.Options{Timeout: 2 * time.Second, Concurrency: 4, Retries: 1})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			_, err := c.Resolve(t.Context(), fmt.Sprintf("%s/a%d:1", hanging.Addr, i), "", all)
			wantUnavailable(t, err)
		})
	}
	testkit.Eventually(t, 10*time.Second, "4 requests hang", func() bool { return hanging.Count(registrytest.All) == 4 })
	start := time.Now()
	if img, err := c.Resolve(t.Context(), reg.Addr+"/a:1", "", all); err != nil || img.Digest != digest {
		t.Errorf("%+v, %v", img, err)
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("the other took %s", took)
	}
	wg.Wait()
	// A request that finds the circuit breaker half open is a probe and hangs; the one after it does
	// not.
	refused := false
	for i := 0; i < 5 && !refused; i++ {
		start = time.Now()
		_, err := c.Resolve(t.Context(), hanging.Addr+"/b:1", "", all)
		wantUnavailable(t, err)
		refused = time.Since(start) < time.Second && strings.Contains(err.Error(), "did not answer the last 5 requests")
	}
	if !refused {
		t.Error("requests to a host that hangs are not refused at once")
	}
	// Without a circuit breaker, each of the 50 look-ups sends two requests.
	if n := hanging.Count(registrytest.All); n >= 80 {
		t.Errorf("%d requests to a host that hangs", n)
	}
	hanging.Heal()
	testkit.Eventually(t, 10*time.Second, "it gets requests again", func() bool {
		_, err := c.Resolve(t.Context(), hanging.Addr+"/a:1", "", all)
		return err == nil
	})
}

func wantUnavailable(t *testing.T, err error) {
	t.Helper()
	if registry.KindOf(err) != registry.Unavailable {
		t.Errorf("error %v, want unavailable", err)
	}
}

func TestTokens_AreRenewedOnceForAllBeforeTheyEnd(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	p := registrytest.NewProxy(t, reg)
	p.RequireTokens(map[string]string{}, nil)
	c := newClient(t, registry.Options{})
	round := func(n int) {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				ref := p.Addr + "/a:1"
				if i%2 == 0 {
					ref = p.Addr + "/a@" + digest
				}
				ask := c.Head
				if i%4 < 2 {
					ask = func(ctx context.Context, ref string, r registry.Rights) (registry.Image, error) {
						return c.Resolve(ctx, ref, "", r)
					}
				}
				if _, err := ask(t.Context(), ref, all); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
	round(20)
	if n := p.Count(isToken); n != 1 {
		t.Errorf("%d tokens at first", n)
	}
	p.ExpireTokens()
	round(20)
	if n := p.Count(isToken); n != 2 {
		t.Errorf("%d tokens after they were revoked", n)
	}
	refused := 0
	p.Heal()
	p.On(isToken, -1, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		refused++
		w.WriteHeader(http.StatusUnauthorized)
	})
	round(20) // the token is still valid
	if refused != 0 {
		t.Errorf("%d tokens were requested without need", refused)
	}
}
