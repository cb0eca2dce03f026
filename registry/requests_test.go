package registry_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/test/testkit"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// waitingForSharedCalls returns the number of goroutines that wait for the result of a shared
// look-up.
func waitingForSharedCalls() int {
	stacks := make([]byte, 8<<20)
	n := 0
	for _, s := range bytes.Split(stacks[:runtime.Stack(stacks, true)], []byte("\n\n")) {
		if head, _, _ := bytes.Cut(s, []byte("\n")); bytes.Contains(head, []byte("[select")) && bytes.Contains(s, []byte("registry.shareCall[")) && bytes.Contains(s, []byte(").lookUp(")) {
			n++
		}
	}
	return n
}

// TestResolve_HundredEqualLookUpsCostAsMuchAsOne expects 100 simultaneous look-ups to cause one
// request for an image, two for an index, and one for a token.
func TestResolve_HundredEqualLookUpsCostAsMuchAsOne(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	reg.Push(t, "a:index", registrytest.Index(t, "linux/arm64", "linux/amd64"))
	for _, mode := range []string{"no login", "tokens"} {
		for tag, want := range map[string]int{"1": 1, "index": 2} {
			t.Run(mode+"/"+tag, func(t *testing.T) {
				behind := registrytest.NewProxy(t, reg)
				if mode == "tokens" {
					behind.RequireTokens(nil, nil)
				}
				p := registrytest.NewHandlerProxy(t, behind)
				c := newClient(t, registry.Options{Timeout: 2 * time.Minute})
				release := p.Hold(registrytest.Manifests)
				var wg sync.WaitGroup
				for range 100 {
					wg.Go(func() {
						img, err := c.Resolve(t.Context(), p.Addr+"/a:"+tag, "", all)
						if err != nil || tag == "1" && img.Digest != digest {
							t.Errorf("%+v, %v", img, err)
						}
					})
				}
				testkit.Eventually(t, 10*time.Second, "all wait", func() bool { return waitingForSharedCalls() == 100 })
				release()
				wg.Wait()
				if got := p.Count(registrytest.Manifests); got != want {
					t.Errorf("%d requests for manifests, want %d", got, want)
				}
				if got := p.Count(registrytest.Pings); got > 2 { // go-containerregistry begins a second ping if the first is slow
					t.Errorf("%d pings", got)
				}
				if got := p.Count(isToken); got != map[string]int{"tokens": 1}[mode] {
					t.Errorf("%d tokens", got)
				}
			})
		}
	}
}

// TestHead_OfARegistryWithoutHEAD expects Head to get the manifest instead, and Resolve to need no
// HEAD.
func TestHead_OfARegistryWithoutHEAD(t *testing.T) {
	head := registrytest.Method(http.MethodHead, registrytest.All)
	for _, status := range []int{http.StatusMethodNotAllowed, http.StatusNotImplemented} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			reg, digest := pushed(t, registrytest.Options{}, "a:1")
			p := registrytest.NewProxy(t, reg)
			p.Fail(head, -1, status)
			c := newClient(t, registry.Options{})
			if img, err := c.Resolve(t.Context(), p.Addr+"/a:1", "", all); err != nil || img.Digest != digest || p.Count(head) != 0 {
				t.Errorf("resolve: %+v, %v, %d times HEAD", img, err, p.Count(head))
			}
			if img, err := c.Head(t.Context(), p.Addr+"/a:1", all); err != nil || img.Digest != digest || p.Count(head) != 1 {
				t.Errorf("head: %+v, %v, %d times HEAD", img, err, p.Count(head))
			}
			_, err := c.Head(t.Context(), p.Addr+"/a:2", all)
			wantKind(t, err, registry.NotFound)
			// The registry as source and as destination of a copy.
			if _, err := c.Copy(t.Context(), p.Addr+"/a@"+digest, all, p.Addr+"/b", all, io.Discard); err != nil || reg.Digest(t, "b@"+digest) != digest {
				t.Errorf("copy: %v", err)
			}
		})
	}
}

// TestCopy_LeavesForeignLayersWhereTheyAre expects layers that must not be distributed to be
// neither requested, nor sent, nor counted. The manifest keeps them.
func TestCopy_LeavesForeignLayersWhereTheyAre(t *testing.T) {
	src, dst := registrytest.Start(t, registrytest.Options{ForeignLayers: true}), registrytest.Start(t, registrytest.Options{ForeignLayers: true})
	own := static.NewLayer([]byte("our own layer"), types.DockerLayer)
	foreign := static.NewLayer([]byte("a layer of others"), types.DockerForeignLayer)
	hash, err := foreign.Digest()
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.Append(empty.Image,
		mutate.Addendum{Layer: foreign, MediaType: types.DockerForeignLayer, URLs: []string{"https://layers.example.com/" + hash.String()}},
		mutate.Addendum{Layer: own, MediaType: types.DockerLayer})
	if err != nil {
		t.Fatal(err)
	}
	digest := src.Push(t, "a:1", img)
	from, to := registrytest.NewProxy(t, src), registrytest.NewProxy(t, dst)
	var progress syncBuffer
	c := newClient(t, registry.Options{})
	if _, err := c.Copy(t.Context(), from.Addr+"/a@"+digest, all, to.Addr+"/b", all, &progress); err != nil {
		t.Fatal(err)
	}
	if dst.Digest(t, "b@"+digest) != digest {
		t.Error("the copy is another image")
	}
	for _, r := range append(from.Requests(), to.Requests()...) {
		if strings.Contains(r.URL.Path, hash.String()) || strings.Contains(r.URL.RawQuery, hash.String()) {
			t.Errorf("a request for the foreign layer: %s %s", r.Method, r.URL)
		}
	}
	if strings.Contains(progress.String(), hash.Hex[:12]) {
		t.Errorf("progress shows the foreign layer:\n%s", progress.String())
	}
}

// TestPanic_IsAnErrorThatShowsNothing lets the client panic during a request of every call. The
// error must contain only the type of the panic value.
func TestPanic_IsAnErrorThatShowsNothing(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	c := newClient(t, registry.Options{
		DockerConfigFile: dockerConfig(t, "", [3]string{reg.Addr, "user", matrixPassword}),
		Proxy: func(r *http.Request) (*url.URL, error) {
			panic("user:" + matrixPassword + r.Header.Get("Authorization"))
		},
	})
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"resolve": func() error { _, err := c.Resolve(ctx, reg.Addr+"/a:1", "", all); return err },
		"head":    func() error { _, err := c.Head(ctx, reg.Addr+"/a:1", all); return err },
		"refresh": func() error { _, err := c.Refresh(ctx, reg.Addr+"/a:1"); return err },
		"copy": func() error {
			_, err := c.Copy(ctx, reg.Addr+"/a@"+digest, all, reg.Addr+"/b", all, io.Discard)
			return err
		},
		"tag":     func() error { return c.Tag(ctx, reg.Addr+"/a@"+digest, reg.Addr+"/a:2", all) },
		"explain": func() error { return c.Explain(ctx, reg.Addr+"/a:1", "", all).Err },
	} {
		t.Run(name, func(t *testing.T) {
			err := call()
			wantKind(t, err, registry.Unavailable)
			showsNoSecret(t, err)
			if !strings.Contains(err.Error(), "panic (string)") {
				t.Error(err)
			}
		})
	}
}
