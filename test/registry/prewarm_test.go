package registry

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/mutate"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_RefCache_Prewarm checks that with refCache.prewarm a BuildKit daemon has the images of
// cached references before a build needs them, even after a refresh that found another digest, and
// after the loss of the daemon's disk. Builds then succeed while the registry serves no blobs.
// Private images are pulled with the credential of the install, which shows nowhere.
func Test_RefCache_Prewarm(t *testing.T) {
	const password = "the-installs-own-7"
	reg := registrytest.Start(t, registrytest.Options{})
	private := registrytest.Start(t, registrytest.Options{Users: map[string]string{"alice": password}})
	proxy := registrytest.NewProxy(t, reg)
	push := func() (digest string) {
		t.Helper()
		layers, err := registrytest.RandomImage(t, 3, 1<<16).Layers()
		if err != nil {
			t.Fatal(err)
		}
		img, err := mutate.AppendLayers(registrytest.BusyboxImage(t, "echo"), layers...)
		if err != nil {
			t.Fatal(err)
		}
		return reg.Push(t, "team/base:1", img)
	}
	fetched := func() int { return proxy.Count(registrytest.Method(http.MethodGet, registrytest.Blobs)) }
	ref, hidden := proxy.Addr+"/team/base:1", private.Addr+"/team/app:1"
	secrets := filepath.Join(t.TempDir(), "pull.json")
	raw, err := json.Marshal(map[string]any{"auths": map[string]any{private.Addr + "/team": map[string]string{"username": "alice", "password": password}}})
	if err == nil {
		err = os.WriteFile(secrets, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	first := push()
	private.Push(t, "team/app:1", registrytest.RandomImage(t, 2, 1<<10))

	root := t.TempDir()
	bk := buildkittest.StartDaemon(t, root)
	c := harness.StartCluster(t, 3, reg.Addr, harness.Config{
		"buildkit":     map[string]any{"addresses": []string{bk.Addr()}},
		"refCache":     map[string]any{"prewarm": "changed", "refs": []string{ref, hidden}, "interval": "1h"},
		"orchestrator": map[string]any{"pullSecretFile": secrets},
	})
	harness.AwaitMembers(t, c, "the feature level is that of the cache", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel >= 3 })
	// Each node takes a daemon at a unix socket for its own. All three request the image, and the
	// daemon pulls it once.
	has := func(what, digest string) {
		t.Helper()
		for _, n := range c.Nodes {
			testkit.Eventually(t, 2*time.Minute, n.Name+": "+what, func() bool {
				for line := range strings.SplitSeq(n.Log(), "\n") {
					if strings.Contains(line, "has the image of a cached reference") && strings.Contains(line, digest) {
						return true
					}
				}
				return false
			})
		}
	}
	has("the first digest", first)
	has("the private image", private.Digest(t, "team/app:1"))
	if n := fetched(); n > 5 {
		t.Errorf("%d blobs were fetched, of a config and 4 layers", n)
	}

	second := push()
	before := fetched()
	if out, errOut, status := harness.CLI(t, c.Nodes[0].Socket(), "cache", "refresh", ref); status != 0 {
		t.Fatalf("%s %s", out, errOut)
	}
	has("the second digest", second)
	if n := fetched() - before; n > 4 { // the daemon has the layer of busybox already
		t.Errorf("%d blobs were fetched, of a config and 3 new layers", n)
	}
	builds := func(what string) {
		t.Helper()
		proxy.Fail(registrytest.Blobs, -1, http.StatusServiceUnavailable)
		defer proxy.Heal()
		before := proxy.Count(registrytest.Blobs)
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+ref+"\nRUN echo "+what+" > /made\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		out, errOut, status := harness.CLI(t, c.Nodes[1].GRPC, "build", dir)
		if status != 0 {
			t.Fatalf("%s: status %d: %s %s", what, status, out, errOut)
		}
		if n := proxy.Count(registrytest.Blobs) - before; n != 0 {
			t.Errorf("%s: the build requested %d blobs", what, n)
		}
	}
	builds("refreshed")

	if err := bk.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(root, "root")); err != nil {
		t.Fatal(err)
	}
	before = fetched()
	if again := buildkittest.StartDaemon(t, root); again.Addr() != bk.Addr() {
		t.Fatalf("the daemon came back at %s, not %s", again.Addr(), bk.Addr())
	}
	for _, n := range c.Nodes {
		testkit.Eventually(t, 2*time.Minute, n.Name+": the new disk has it", func() bool {
			body, _ := n.Get("http://" + n.Metrics + "/metrics")
			return strings.Contains(body, `image_builder_refcache_prewarms_total{result="ok"} 5`)
		})
	}
	if n := fetched() - before; n < 4 {
		t.Errorf("%d blobs were fetched for the new disk", n)
	}
	builds("returned")

	for _, n := range c.Nodes {
		testkit.NoSecret(t, "the log of "+n.Name, []byte(n.Log()), password)
		n.Stop()
		testkit.NoSecretBelow(t, filepath.Join(n.Dir, "data"), password)
	}
	testkit.NoSecretBelow(t, root, password)
}
