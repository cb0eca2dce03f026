package dockerfile

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// contextTags lists the uploaded contexts in the base repository.
func contextTags(t *testing.T, addr string) (tags []string) {
	t.Helper()
	repo, err := name.NewRepository(addr + "/base-images")
	if err != nil {
		t.Fatal(err)
	}
	all, _ := remote.List(repo) // none before the first push
	for _, tag := range all {
		if strings.HasPrefix(tag, "context-") {
			tags = append(tags, tag)
		}
	}
	return tags
}

// Test_Contexts_AreCollected uploads contexts that are kept for two seconds. A context is deleted
// after the end of its build, not while the build runs or waits.
func Test_Contexts_AreCollected(t *testing.T) {
	w := buildkittest.Start(t, harness.Config{"builds": map[string]any{"runningPerNode": 1}})
	restart := func(age string) {
		w.Node.Stop()
		w.Node = harness.Start(t, w.Registry.Addr, harness.Config{
			"buildkit": map[string]any{"addresses": []string{w.Daemon.Addr()}, "contextAge": age}, "builds": map[string]any{"runningPerNode": 1},
		})
	}
	restart("2s")
	running := strings.TrimSpace(harness.MustCLI(t, w.GRPC, "build", w.Context(t, "FROM base\nRUN sleep 8\n", nil), "--detach"))
	queued := strings.TrimSpace(harness.MustCLI(t, w.GRPC, "build", w.Context(t, "FROM base\nRUN echo second\n", nil), "--detach"))
	done := w.Context(t, "FROM base\nRUN echo third\n", nil)
	third := strings.TrimSpace(harness.MustCLI(t, w.GRPC, "build", done, "--detach"))
	if _, errOut, status := harness.CLI(t, w.GRPC, "cancel", third); status != 0 {
		t.Fatal(errOut)
	}
	testkit.Eventually(t, 30*time.Second, "the context of the ended build is deleted", func() bool { return len(contextTags(t, w.Registry.Addr)) == 2 })
	for _, id := range []string{running, queued} {
		if out, errOut, status := harness.CLI(t, w.GRPC, "status", id, "--wait"); status != 0 {
			t.Errorf("a build whose context is old: %s %s", out, errOut)
		}
	}
	testkit.Eventually(t, 30*time.Second, "all contexts are deleted", func() bool { return len(contextTags(t, w.Registry.Addr)) == 0 })
	// A deleted context is uploaded again.
	harness.MustCLI(t, w.GRPC, "build", done)
}

// Test_Contexts_RegistryForbidsDeletion checks that a node logs once that it cannot delete
// contexts, and continues.
func Test_Contexts_RegistryForbidsDeletion(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "library/busybox:1", registrytest.BusyboxImage(t, "echo"))
	proxy := registrytest.NewProxy(t, reg)
	proxy.Fail(registrytest.Method(http.MethodDelete, registrytest.Manifests), 100, http.StatusMethodNotAllowed)
	bk := buildkittest.StartDaemon(t, t.TempDir())
	w := &buildkittest.Node{Registry: reg, Daemon: bk, Base: reg.Addr + "/library/busybox:1"}
	w.Node = harness.Start(t, reg.Addr, harness.Config{
		"buildkit":     map[string]any{"addresses": []string{bk.Addr()}, "contextAge": "1s"},
		"orchestrator": map[string]any{"baseImageRepository": proxy.Addr + "/base-images"},
	})
	harness.MustCLI(t, w.GRPC, "build", w.Context(t, "FROM base\nRUN echo x\n", nil))
	deletes := registrytest.Method(http.MethodDelete, registrytest.Manifests)
	testkit.Eventually(t, 30*time.Second, "the node has tried to delete it", func() bool { return proxy.Count(deletes) > 0 })
	harness.MustCLI(t, w.GRPC, "build", w.Context(t, "FROM base\nRUN echo y\n", nil))
	if n := proxy.Count(deletes); n != 1 {
		t.Errorf("the node has tried %d times", n)
	}
	if n := strings.Count(string(w.Log()), "forbids their deletion"); n != 1 {
		t.Errorf("the log says so %d times", n)
	}
}
