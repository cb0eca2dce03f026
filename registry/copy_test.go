package registry_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// begun returns the uploads begun in a repository, counted by kind and status as in "mount 201" or
// "upload 202". It waits until the registry's access log shows n of them.
func begun(t *testing.T, reg *registrytest.Registry, repo string, n int) (out map[string]int) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, fmt.Sprintf("the access log of %s shows %d uploads", repo, n), func() bool {
		out = posts(reg, repo)
		sum := 0
		for _, k := range out {
			sum += k
		}
		return sum >= n
	})
	return out
}

func posts(reg *registrytest.Registry, repo string) map[string]int {
	out := map[string]int{}
	for _, r := range reg.Requests() {
		if r.Method != http.MethodPost || !strings.HasPrefix(r.URI, "/v2/"+repo+"/") {
			continue
		}
		how := "upload"
		if strings.Contains(r.URI, "mount=") && strings.Contains(r.URI, "from=") {
			how = "mount"
		}
		out[fmt.Sprint(how, " ", r.Status)]++
	}
	return out
}

func TestCopy_MountsWithinOneRegistry(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "base/app:1")
	c := newClient(t, registry.Options{})
	var progress syncBuffer
	img, err := c.Copy(t.Context(), reg.Addr+"/base/app@"+digest, all, reg.Addr+"/workspace/images", all, &progress)
	if err != nil {
		t.Fatal(err)
	}
	if img.Ref != reg.Addr+"/workspace/images@"+digest || img.Digest != digest || img.SizeBytes < 8<<10 {
		t.Errorf("copied as %+v", img)
	}
	reg.Pull(t, "workspace/images@"+digest)
	if got := begun(t, reg, "workspace/images", 3); len(got) != 1 || got["mount 201"] != 3 {
		t.Errorf("uploads begun: %v, want 3 mounts with status 201", got)
	}
	for _, r := range reg.Requests() {
		if r.Method == http.MethodPut && strings.HasPrefix(r.URI, "/v2/workspace/") && !strings.HasSuffix(r.URI, "/manifests/"+digest) {
			t.Errorf("a PUT of something other than the manifest by digest: %+v", r)
		}
	}
	for _, want := range []string{`(?m)^layer sha256:[0-9a-f]{8} 4\.\d kB mounted$`, `(?m)^config sha256:[0-9a-f]{8} \d+ B mounted$`, `(?m)^manifest sha256:[0-9a-f]{8} \d+ B pushed$`} {
		if !regexp.MustCompile(want).MatchString(progress.String()) {
			t.Errorf("progress has no line %s:\n%s", want, progress.String())
		}
	}
}

func TestCopy_SendsBlobsToAnotherRegistry(t *testing.T) {
	src, digest := pushed(t, registrytest.Options{}, "base/app:1")
	dst := registrytest.Start(t, registrytest.Options{Users: map[string]string{"user": "p"}})
	c := newClient(t, registry.Options{DockerConfigFile: dockerConfig(t, "", [3]string{dst.Addr, "user", "p"})})
	var progress syncBuffer
	img, err := c.Copy(t.Context(), src.Addr+"/base/app@"+digest, registry.Rights{}, dst.Addr+"/ws", all, &progress)
	if err != nil || img.Digest != digest {
		t.Fatalf("%+v, %v", img, err)
	}
	dst.Pull(t, "ws@"+digest)
	if got := begun(t, dst, "ws", 3); len(got) != 1 || got["upload 202"] != 3 {
		t.Errorf("uploads begun: %v, want 3 and no mount", got)
	}
	if n := strings.Count(progress.String(), " copied\n"); n != 3 {
		t.Errorf("progress shows %d copied blobs, want 3:\n%s", n, progress.String())
	}
}

func TestCopy_OfWhatIsThereSendsNothing(t *testing.T) {
	src, digest := pushed(t, registrytest.Options{}, "a:1")
	dst := registrytest.NewProxy(t, registrytest.Start(t, registrytest.Options{}))
	c := newClient(t, registry.Options{})
	uploads := 0
	for i := range 2 {
		var progress syncBuffer
		if _, err := c.Copy(t.Context(), src.Addr+"/a@"+digest, all, dst.Addr+"/b", all, &progress); err != nil {
			t.Fatal(err)
		}
		if n := dst.Count(registrytest.Uploads); i == 0 {
			uploads = n
		} else if n != uploads || !strings.HasSuffix(progress.String(), " exists\n") {
			t.Errorf("the second time: %d requests of uploads, progress:\n%s", n-uploads, progress.String())
		}
	}
}

func TestCopy_AgainAfterTheDestinationWasDeleted(t *testing.T) {
	src, digest := pushed(t, registrytest.Options{}, "a:1")
	dst := registrytest.Start(t, registrytest.Options{})
	c := newClient(t, registry.Options{})
	for range 2 {
		if _, err := c.Copy(t.Context(), src.Addr+"/a@"+digest, all, dst.Addr+"/b", all, io.Discard); err != nil {
			t.Fatal(err)
		}
		dst.Pull(t, "b@"+digest)
		dst.Delete(t, "b@"+digest)
	}
}

func TestCopy_OfAnIndexBringsItsImages(t *testing.T) {
	src := registrytest.Start(t, registrytest.Options{})
	index := registrytest.Index(t, "linux/amd64", "linux/arm64")
	digest := src.Push(t, "multi:1", index)
	dst := registrytest.Start(t, registrytest.Options{})
	c := newClient(t, registry.Options{})
	img, err := c.Copy(t.Context(), src.Addr+"/multi@"+digest, all, dst.Addr+"/m", all, io.Discard)
	if err != nil || img.Digest != digest {
		t.Fatalf("%+v, %v", img, err)
	}
	im, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range im.Manifests {
		dst.Pull(t, "m@"+m.Digest.String())
	}
	if got := dst.Digest(t, "m@"+digest); got != digest {
		t.Errorf("the index is %q", got)
	}
}

func TestCopy_GoesOnWhereItWasCutOff(t *testing.T) {
	src, digest := pushed(t, registrytest.Options{}, "a:1")
	dst := registrytest.Start(t, registrytest.Options{})
	p := registrytest.NewProxy(t, dst)
	// Pushing the manifest fails. All blobs are at the destination by then.
	p.Fail(registrytest.Method(http.MethodPut, registrytest.Manifests), -1, http.StatusInternalServerError)
	c := newClient(t, registry.Options{Retries: 1})
	_, err := c.Copy(t.Context(), src.Addr+"/a@"+digest, all, p.Addr+"/b", all, io.Discard)
	wantKind(t, err, registry.Unavailable)
	p.Heal()
	var progress syncBuffer
	if _, err := c.Copy(t.Context(), src.Addr+"/a@"+digest, all, p.Addr+"/b", all, &progress); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(progress.String(), " exists\n"); n != 3 {
		t.Errorf("%d blobs were there already, want 3:\n%s", n, progress.String())
	}
}

func TestCopy_OutlivesFaults(t *testing.T) {
	src, digest := pushed(t, registrytest.Options{}, "a:1")
	patches := registrytest.Method(http.MethodPut, registrytest.Uploads)
	for name, fault := range map[string]func(src, dst *registrytest.Proxy){
		"source resets":            func(src, _ *registrytest.Proxy) { src.Reset(registrytest.Blobs, 2, 100) },
		"source corrupts":          func(src, _ *registrytest.Proxy) { src.Corrupt(registrytest.Blobs, 2) },
		"source hangs":             func(src, _ *registrytest.Proxy) { src.Hang(registrytest.Blobs, 1) },
		"source hangs in the body": func(src, _ *registrytest.Proxy) { src.HangInBody(registrytest.Blobs, 1, 100) },
		"source limits":            func(src, _ *registrytest.Proxy) { src.Fail(registrytest.Blobs, 2, 429) },
		"destination fails":        func(_, dst *registrytest.Proxy) { dst.Fail(registrytest.Uploads, 3, 502) },
		"destination hangs":        func(_, dst *registrytest.Proxy) { dst.Hang(patches, 1) },
		"destination loses upload": func(_, dst *registrytest.Proxy) { dst.Fail(patches, 2, 404) },
		"the commit's answer is lost": func(_, dst *registrytest.Proxy) {
			dst.On(patches, 1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				next.ServeHTTP(discardResponse{http.Header{}}, r)
				panic(http.ErrAbortHandler)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dst := registrytest.Start(t, registrytest.Options{})
			from, to := registrytest.NewProxy(t, src), registrytest.NewProxy(t, dst)
			fault(from, to)
			c := newClient(t, registry.Options{Timeout: time.Second})
			var progress syncBuffer
			if _, err := c.Copy(t.Context(), from.Addr+"/a@"+digest, all, to.Addr+"/b", all, &progress); err != nil {
				t.Fatalf("%v; progress:\n%s", err, progress.String())
			}
			dst.Pull(t, "b@"+digest)
			if !strings.Contains(progress.String(), "trying again in") && !strings.Contains(progress.String(), "continuing at") {
				t.Errorf("progress shows no retry:\n%s", progress.String())
			}
		})
	}
}

type discardResponse struct{ header http.Header }

func (d discardResponse) Header() http.Header         { return d.header }
func (d discardResponse) Write(p []byte) (int, error) { return len(p), nil }
func (d discardResponse) WriteHeader(int)             {}

// TestCopy_ABrokenSourceDoesNotOpenTheDestinationsBreaker breaks off uploads because of their
// source, which must not count as missing responses of the destination.
func TestCopy_ABrokenSourceDoesNotOpenTheDestinationsBreaker(t *testing.T) {
	src := registrytest.Start(t, registrytest.Options{})
	from := registrytest.NewProxy(t, src)
	breakOff := make(chan struct{})
	from.On(registrytest.Blobs, -1, func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("Content-Length", "100")
		_, _ = w.Write([]byte("some"))
		_ = http.NewResponseController(w).Flush()
		select {
		case <-breakOff:
		case <-r.Context().Done():
		}
		panic(http.ErrAbortHandler)
	})
	dst, there := pushed(t, registrytest.Options{}, "b:1")
	c := newClient(t, registry.Options{Retries: -1, Parallel: 1})
	const copies = 8
	var wg sync.WaitGroup
	for i := range copies {
		digest := src.Push(t, fmt.Sprint("a:", i), registrytest.RandomImage(t, 1, 100))
		wg.Go(func() {
			if _, err := c.Copy(t.Context(), from.Addr+"/a@"+digest, all, dst.Addr+"/b", all, io.Discard); registry.KindOf(err) != registry.Unavailable {
				t.Error(err)
			}
		})
	}
	testkit.Eventually(t, 10*time.Second, "all are in the middle of a blob", func() bool { return from.Count(registrytest.Blobs) == copies })
	close(breakOff)
	wg.Wait()
	if img, err := c.Head(t.Context(), dst.Addr+"/b:1", all); err != nil || img.Digest != there {
		t.Errorf("%+v, %v", img, err)
	}
}

func TestCopy_NeverCommitsOtherBytes(t *testing.T) {
	src, digest := pushed(t, registrytest.Options{}, "a:1")
	from := registrytest.NewProxy(t, src)
	from.Corrupt(registrytest.Blobs, -1)
	dst := registrytest.Start(t, registrytest.Options{})
	c := newClient(t, registry.Options{Retries: 1})
	_, err := c.Copy(t.Context(), from.Addr+"/a@"+digest, all, dst.Addr+"/b", all, io.Discard)
	wantKind(t, err, registry.Unavailable)
	if !strings.Contains(err.Error(), "bytes that do not match the digest") {
		t.Errorf("the error does not give the reason: %v", err)
	}
	for _, r := range dst.Requests() {
		if r.Method == http.MethodPut && r.Status == http.StatusCreated {
			t.Errorf("committed: %+v", r)
		}
	}
}

func TestCopy_EndsWhenEitherSideHangs(t *testing.T) {
	src, digest := pushed(t, registrytest.Options{}, "a:1")
	dst := registrytest.Start(t, registrytest.Options{})
	for name, hang := range map[string]func(src, dst *registrytest.Proxy){
		"source": func(src, _ *registrytest.Proxy) { src.HangInBody(registrytest.Blobs, -1, 100) },
		"destination": func(_, dst *registrytest.Proxy) {
			dst.Hang(registrytest.Method(http.MethodPut, registrytest.Uploads), -1)
		},
		"begin": func(_, dst *registrytest.Proxy) {
			dst.Hang(registrytest.Method(http.MethodPost, registrytest.Uploads), -1)
		},
		"manifest": func(_, dst *registrytest.Proxy) {
			dst.Hang(registrytest.Method(http.MethodPut, registrytest.Manifests), -1)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := registrytest.NewProxy(t, src), registrytest.NewProxy(t, dst)
			hang(from, to)
			c := newClient(t, registry.Options{Timeout: 400 * time.Millisecond, Retries: 1})
			start := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second) // Copy waits for a host that does not respond
			defer cancel()
			_, err := c.Copy(ctx, from.Addr+"/a@"+digest, all, to.Addr+"/"+name, all, io.Discard)
			wantKind(t, err, registry.Unavailable)
			if d := time.Since(start); d > 5*time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
}

func TestCopy_IsNotEndedByASlowButMovingTransfer(t *testing.T) {
	src, digest := pushed(t, registrytest.Options{}, "a:1")
	from := registrytest.NewProxy(t, src)
	from.Slow(registrytest.Blobs, -1, 60, 100*time.Millisecond) // 6 s in total
	dst := registrytest.Start(t, registrytest.Options{})
	c := newClient(t, registry.Options{Timeout: 5 * time.Second, Retries: -1})
	if _, err := c.Copy(t.Context(), from.Addr+"/a@"+digest, all, dst.Addr+"/b", all, io.Discard); err != nil {
		t.Fatal(err)
	}
}

func TestCopy_EndsWithItsContext(t *testing.T) {
	src, digest := pushed(t, registrytest.Options{}, "a:1")
	from := registrytest.NewProxy(t, src)
	from.HangInBody(registrytest.Blobs, -1, 10)
	dst := registrytest.Start(t, registrytest.Options{})
	c := newClient(t, registry.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.Copy(ctx, from.Addr+"/a@"+digest, all, dst.Addr+"/b", all, io.Discard)
		done <- err
	}()
	testkit.Eventually(t, 10*time.Second, "it hangs", func() bool { return from.Count(registrytest.Blobs) > 0 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want it to match context.Canceled", err)
	}
}

func TestCopy_ErrorsNameTheSideThatFailed(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	closed := registrytest.Start(t, registrytest.Options{Users: map[string]string{"user": "p"}})
	c := newClient(t, registry.Options{Retries: -1})
	absent := "@sha256:" + strings.Repeat("1", 64)
	for _, x := range []struct {
		name, src, dst string
		want           registry.Kind
		text           string
	}{
		{"source is missing", reg.Addr + "/a" + absent, reg.Addr + "/b", registry.NotFound, "copy image \"" + reg.Addr + "/a" + absent},
		{"source is closed", closed.Addr + "/a@" + digest, reg.Addr + "/b", registry.Unauthorized, "copy image \"" + closed.Addr},
		{"destination is closed", reg.Addr + "/a@" + digest, closed.Addr + "/b", registry.PushRefused, "copy image to \"" + closed.Addr + "/b\""},
		{"source by tag", reg.Addr + "/a:1", reg.Addr + "/b", registry.Invalid, "by digest"},
		{"destination with a tag", reg.Addr + "/a@" + digest, reg.Addr + "/b:1", registry.Invalid, "without tag"},
	} {
		t.Run(x.name, func(t *testing.T) {
			_, err := c.Copy(t.Context(), x.src, all, x.dst, all, io.Discard)
			wantKind(t, err, x.want)
			if !strings.Contains(err.Error(), x.text) {
				t.Errorf("error %v, want %s in it", err, x.text)
			}
		})
	}
}

func TestCopy_RequestsTheScopeOfTheSourceToMount(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "base:1")
	for _, x := range []struct {
		name       string
		mayMount   bool
		want, post string
	}{
		{"the destination's credential may pull the source", true, "mounted", "mount 201"},
		{"it may not", false, "copied", "upload 202"},
	} {
		t.Run(x.name, func(t *testing.T) {
			p := registrytest.NewProxy(t, reg)
			dst := fmt.Sprintf("ws-%v", x.mayMount)
			p.RequireTokens(map[string]string{"install": "p", "own": "p"}, func(user, repository, action string) bool {
				if user == "own" {
					return repository == "base" && action == "pull"
				}
				return user == "install" && (repository == dst || x.mayMount && action == "pull")
			})
			c := newClient(t, registry.Options{DockerConfigFile: dockerConfig(t, "", [3]string{p.Addr, "install", "p"})})
			own := registry.Rights{Additional: map[string]registry.Basic{p.Addr: {Username: "own", Password: "p"}}}
			var progress syncBuffer
			if _, err := c.Copy(t.Context(), p.Addr+"/base@"+digest, own, p.Addr+"/"+dst, all, &progress); err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(progress.String(), " "+x.want+"\n"); n != 3 {
				t.Errorf("%d blobs %s, want 3:\n%s", n, x.want, progress.String())
			}
			if got := begun(t, reg, dst, 3); got[x.post] != 3 {
				t.Errorf("uploads begun: %v, want 3 of %s", got, x.post)
			}
		})
	}
}

func TestCopy_InConstantMemory(t *testing.T) {
	src := registrytest.Start(t, registrytest.Options{})
	const layers, layerBytes = 2, 16 << 20
	var adds []v1.Layer
	for range layers {
		b := make([]byte, layerBytes)
		_, _ = rand.Read(b)
		adds = append(adds, static.NewLayer(b, types.DockerLayer))
	}
	big, err := mutate.AppendLayers(registrytest.RandomImage(t, 1, 1), adds...)
	if err != nil {
		t.Fatal(err)
	}
	digest := src.Push(t, "big:1", big)
	dst := registrytest.Start(t, registrytest.Options{})
	c := newClient(t, registry.Options{})
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := c.Copy(t.Context(), src.Addr+"/big@"+digest, all, dst.Addr+"/b", all, io.Discard); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 4 {
		t.Errorf("allocated %d MiB to copy %d MiB", n, layers*layerBytes>>20)
	}
}

func TestCopy_OfABusybox(t *testing.T) {
	src := registrytest.Start(t, registrytest.Options{})
	digest := src.Push(t, "busybox:1", registrytest.BusyboxImage(t, "ls"))
	c := newClient(t, registry.Options{})
	img, err := c.Resolve(t.Context(), src.Addr+"/busybox:1", "", all)
	if err != nil || img.Digest != digest {
		t.Fatalf("%+v, %v", img, err)
	}
	if _, err := c.Copy(t.Context(), img.Ref, all, src.Addr+"/ws", all, io.Discard); err != nil {
		t.Fatal(err)
	}
	got := src.Pull(t, "ws@"+digest)
	config, err := got.ConfigFile()
	if err != nil || config.Architecture != "amd64" {
		t.Errorf("config %+v, %v", config, err)
	}
}

func TestTag_PutsAndMovesATag(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	index := reg.Push(t, "a:2", registrytest.Index(t, "linux/amd64"))
	c := newClient(t, registry.Options{})
	for _, d := range []string{digest, index, index, digest} {
		if err := c.Tag(t.Context(), reg.Addr+"/a@"+d, reg.Addr+"/a:latest", all); err != nil {
			t.Fatal(err)
		}
		if got := reg.Digest(t, "a:latest"); got != d {
			t.Errorf("the tag names %s, want %s", got, d)
		}
	}
}

func TestTag_Errors(t *testing.T) {
	reg, digest := pushed(t, registrytest.Options{}, "a:1")
	c := newClient(t, registry.Options{Retries: -1})
	wantKind(t, c.Tag(t.Context(), reg.Addr+"/a@"+v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("1", 64)}.String(), reg.Addr+"/a:2", all), registry.NotFound)
	for _, x := range [][2]string{{"/a@" + digest, "/b:1"}, {"/a:1", "/a:2"}, {"/a@" + digest, "/a"}, {"/a@" + digest, "/a@" + digest}} {
		wantKind(t, c.Tag(t.Context(), reg.Addr+x[0], reg.Addr+x[1], all), registry.Invalid)
	}
	if bytes.Contains([]byte(reg.Log()), []byte("/b/manifests")) {
		t.Error("another repository got a request")
	}
}
