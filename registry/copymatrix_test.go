package registry_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/test/testkit"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

func isMount(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Get("mount") != ""
}

func TestMatrix_CopyToOddDestinations(t *testing.T) {
	head := registrytest.Method(http.MethodHead, registrytest.All)
	for _, c := range []struct {
		name    string
		fault   func(dst *registrytest.Proxy)
		kind    registry.Kind
		message string
		uploads int // committed uploads
	}{
		{name: "no HEAD", fault: func(p *registrytest.Proxy) { p.Fail(head, -1, 405) }, uploads: 3},
		{name: "HEAD is not implemented", fault: func(p *registrytest.Proxy) { p.Fail(head, -1, 501) }, uploads: 3},
		{name: "403 for what is missing", fault: func(p *registrytest.Proxy) { p.Fail(head, -1, 403) }, uploads: 3},
		{name: "401 for what is missing", fault: func(p *registrytest.Proxy) {
			p.Fail(registrytest.Method(http.MethodHead, registrytest.Manifests), -1, 401)
		}, kind: registry.PushRefused, message: "access denied"},
		{name: "absolute Locations", uploads: 3, fault: func(p *registrytest.Proxy) {
			p.On(registrytest.Method(http.MethodPost, registrytest.Uploads), -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, r)
				at := rec.Header().Get("Location")
				if !strings.HasPrefix(at, "http://") {
					at = "http://" + r.Host + at
				}
				w.Header().Set("Location", at)
				w.WriteHeader(rec.Code)
			})
		}},
		{name: "relative Locations", uploads: 3, fault: func(p *registrytest.Proxy) {
			p.On(registrytest.Method(http.MethodPost, registrytest.Uploads), -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				rec := httptest.NewRecorder()
				next.ServeHTTP(rec, r)
				_, path, _ := strings.Cut(strings.TrimPrefix(rec.Header().Get("Location"), "http://"), "/")
				w.Header().Set("Location", "/"+path)
				w.WriteHeader(rec.Code)
			})
		}},
		{name: "no Location", fault: func(p *registrytest.Proxy) {
			p.Fail(registrytest.Method(http.MethodPost, registrytest.Uploads), -1, 202)
		}, kind: registry.PushRefused, message: "does not return an upload location"},
		{name: "uploads are denied", fault: func(p *registrytest.Proxy) {
			p.Fail(registrytest.Method(http.MethodPost, registrytest.Uploads), -1, 403)
		}, kind: registry.PushRefused, message: "access denied"},
		{name: "a quota is used up", fault: func(p *registrytest.Proxy) {
			p.Fail(registrytest.Method(http.MethodPut, registrytest.Uploads), -1, 413)
		}, kind: registry.PushRefused, message: "(413)"},
		{name: "the login ends during an upload", fault: func(p *registrytest.Proxy) { p.Fail(registrytest.Method(http.MethodPut, registrytest.Uploads), 1, 401) }, uploads: 3},
		{name: "the manifest is denied", fault: func(p *registrytest.Proxy) {
			p.Fail(registrytest.Method(http.MethodPut, registrytest.Manifests), -1, 400)
		}, kind: registry.PushRefused, message: "(400)", uploads: 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			src, digest := pushed(t, registrytest.Options{}, "a:1")
			dst := registrytest.Start(t, registrytest.Options{})
			p := registrytest.NewProxy(t, dst)
			if c.fault != nil {
				c.fault(p)
			}
			cl := newClient(t, registry.Options{Timeout: 2 * time.Second, Retries: 1})
			start := time.Now()
			_, err := cl.Copy(t.Context(), src.Addr+"/a@"+digest, all, p.Addr+"/b", all, io.Discard)
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("took %s", took)
			}
			wantKind(t, err, c.kind)
			if err == nil {
				dst.Pull(t, "b@"+digest)
			} else if !strings.Contains(err.Error(), c.message) {
				t.Errorf("error %v, want %q", err, c.message)
			}
			if n := p.Count(registrytest.Method(http.MethodPut, registrytest.Uploads)); c.uploads > 0 && (n < c.uploads || n > c.uploads+1) {
				t.Errorf("%d uploads committed, want %d", n, c.uploads)
			}
		})
	}
}

func TestMatrix_CopyWithoutMounts(t *testing.T) {
	for _, status := range []int{400, 404, 405, 403} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			reg, digest := pushed(t, registrytest.Options{}, "a:1")
			p := registrytest.NewProxy(t, reg)
			p.Fail(isMount, -1, status)
			cl := newClient(t, registry.Options{})
			if _, err := cl.Copy(t.Context(), p.Addr+"/a@"+digest, all, p.Addr+"/b", all, io.Discard); err != nil {
				t.Fatal(err)
			}
			reg.Pull(t, "b@"+digest)
			if n := p.Count(isMount); n != 3 {
				t.Errorf("%d mounts were tried, want one for each of 3 blobs", n)
			}
		})
	}
}

// TestMatrix_BlobsFromAnObjectStore expects redirects of blobs to be followed without sending
// credentials to the store.
func TestMatrix_BlobsFromAnObjectStore(t *testing.T) {
	users := map[string]string{"user": matrixPassword}
	src := registrytest.Start(t, registrytest.Options{})
	digest := src.Push(t, "a:1", registrytest.RandomImage(t, 2, 4<<10))
	for _, mode := range []string{"basic", "token"} {
		store, front := registrytest.NewProxy(t, src), registrytest.NewProxy(t, src)
		if mode == "token" {
			front.RequireTokens(users, nil)
		}
		front.Redirect(registrytest.Blobs, -1, "http://"+store.Addr)
		dst := registrytest.Start(t, registrytest.Options{})
		cl := newClient(t, registry.Options{DockerConfigFile: dockerConfig(t, "", [3]string{front.Addr, "user", matrixPassword})})
		if _, err := cl.Copy(t.Context(), front.Addr+"/a@"+digest, all, dst.Addr+"/b", all, io.Discard); err != nil {
			t.Fatal(err)
		}
		dst.Pull(t, "b@"+digest)
		if store.Count(registrytest.Blobs) != 3 {
			t.Errorf("%s: the store got %d requests", mode, store.Count(registrytest.Blobs))
		}
		for _, r := range store.Requests() {
			if r.Header.Get("Authorization") != "" || strings.Contains(fmt.Sprint(r.Header), matrixPassword) {
				t.Errorf("%s: the store got the headers %v", mode, r.Header)
			}
		}
	}
}

func TestMatrix_KindsOfImages(t *testing.T) {
	layer := func(kind types.MediaType, content string) v1.Layer { return static.NewLayer([]byte(content), kind) }
	image := func(adds ...mutate.Addendum) v1.Image {
		img, err := mutate.Append(mutate.MediaType(empty.Image, types.OCIManifestSchema1), adds...)
		if err != nil {
			t.Fatal(err)
		}
		return img
	}
	zstd := image(mutate.Addendum{Layer: layer(types.OCILayerZStd, "zstd bytes"), MediaType: types.OCILayerZStd})
	attested := registrytest.Index(t, "linux/amd64")
	attested = mutate.AppendManifests(attested, mutate.IndexAddendum{
		Add:        image(mutate.Addendum{Layer: layer("application/vnd.in-toto+json", "{}"), MediaType: "application/vnd.in-toto+json"}),
		Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}, Annotations: map[string]string{"vnd.docker.reference.type": "attestation-manifest"}},
	})
	nested := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex),
		mutate.IndexAddendum{Add: registrytest.Index(t, "linux/arm64")}, mutate.IndexAddendum{Add: registrytest.Index(t, "linux/amd64")})
	for name, c := range map[string]struct {
		what     interface{ RawManifest() ([]byte, error) }
		requests int // for Resolve
	}{"zstd": {zstd, 1}, "attestation": {attested, 2}, "index in an index": {nested, 4}} {
		t.Run(name, func(t *testing.T) {
			src, dst := registrytest.Start(t, registrytest.Options{}), registrytest.Start(t, registrytest.Options{})
			p := registrytest.NewProxy(t, src)
			digest := src.Push(t, "a:1", c.what)
			cl := newClient(t, registry.Options{})
			img, err := cl.Resolve(t.Context(), p.Addr+"/a:1", "", all)
			if err != nil || p.Count(registrytest.Manifests) != c.requests {
				t.Errorf("%+v, %v with %d requests, want %d", img, err, p.Count(registrytest.Manifests), c.requests)
			}
			if _, err := cl.Copy(t.Context(), p.Addr+"/a@"+digest, all, dst.Addr+"/b", all, io.Discard); err != nil {
				t.Fatal(err)
			}
			if got := dst.Digest(t, "b@"+digest); got != digest {
				t.Errorf("the copy is %q", got)
			}
			if name == "index in an index" {
				_, err := cl.Resolve(t.Context(), p.Addr+"/a:1", "linux/s390x", all)
				wantKind(t, err, registry.NotFound)
			}
		})
	}
}

func TestCopy_GoesOnInTheMiddleOfABlob(t *testing.T) {
	const size = 4 << 20
	src := registrytest.Start(t, registrytest.Options{})
	digest := src.Push(t, "a:1", registrytest.RandomImage(t, 1, size))
	for name, ranges := range map[string]bool{"with ranges": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			p := registrytest.NewProxy(t, src)
			large := func(r *http.Request) bool { return registrytest.Blobs(r) && r.Header.Get("Range") == "" }
			if !ranges {
				large = registrytest.Blobs
				p.On(func(r *http.Request) bool { return r.Header.Get("Range") != "" }, -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					r.Header.Del("Range")
					next.ServeHTTP(w, r)
				})
			}
			p.Reset(large, 2, 3<<20) // after the whole config, but within the layer
			dst := registrytest.Start(t, registrytest.Options{})
			cl := newClient(t, registry.Options{})
			var progress syncBuffer
			if _, err := cl.Copy(t.Context(), p.Addr+"/a@"+digest, all, dst.Addr+"/b", all, &progress); err != nil {
				t.Fatal(err)
			}
			dst.Pull(t, "b@"+digest)
			if !strings.Contains(progress.String(), "continuing at 3.1 MB") || strings.Contains(progress.String(), "trying again") {
				t.Errorf("progress:\n%s", progress.String())
			}
		})
	}
}

func TestCopy_OfTheSameBlobsAtTheSameTimeIsOne(t *testing.T) {
	src, digest := pushed(t, registrytest.Options{}, "a:1")
	dst := registrytest.Start(t, registrytest.Options{})
	from, to := registrytest.NewProxy(t, src), registrytest.NewProxy(t, dst)
	release := from.Hold(registrytest.Blobs)
	cl := newClient(t, registry.Options{Parallel: 8})
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			c := t.Context()
			if i == 0 {
				c = ctx
			}
			_, err := cl.Copy(c, from.Addr+"/a@"+digest, all, to.Addr+"/b", all, io.Discard)
			if (err != nil) != (i == 0) {
				t.Errorf("copy %d: %v", i, err)
			}
		})
	}
	testkit.Eventually(t, 10*time.Second, "all 8 have looked up the manifest and all blobs are requested", func() bool {
		return to.Count(registrytest.Method(http.MethodHead, registrytest.Manifests)) == 8 && from.Count(registrytest.Blobs) == 3
	})
	leave() // a copy that is cancelled does not affect the others
	release()
	wg.Wait()
	dst.Pull(t, "b@"+digest)
	if n := to.Count(registrytest.Method(http.MethodPut, registrytest.Uploads)); n != 3 {
		t.Errorf("%d uploads of 3 blobs", n)
	}
}

func TestCopy_KeepsToTheBandwidth(t *testing.T) {
	const size, perSecond = 600 << 10, 512 << 10
	src := registrytest.Start(t, registrytest.Options{})
	digest := src.Push(t, "a:1", registrytest.RandomImage(t, 2, size))
	dst := registrytest.Start(t, registrytest.Options{})
	cl := newClient(t, registry.Options{Bandwidth: perSecond})
	start := time.Now()
	if _, err := cl.Copy(t.Context(), src.Addr+"/a@"+digest, all, dst.Addr+"/b", all, io.Discard); err != nil {
		t.Fatal(err)
	}
	if took, least := time.Since(start), 2*size*time.Second/perSecond-time.Second/10; took < least {
		t.Errorf("took %s, want at least %s", took, least)
	}
	dst.Pull(t, "b@"+digest)
}
