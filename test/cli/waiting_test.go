package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Waiting_IsShown fills a node that runs one build at a time with a build that the registry
// delays. The next build shows why it waits.
func Test_Waiting_IsShown(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "team/one:1", registrytest.RandomImage(t, 1, 1<<10))
	reg.Push(t, "team/two:1", registrytest.RandomImage(t, 1, 1<<10))
	proxy := registrytest.NewProxy(t, reg)
	release := proxy.Hold(registrytest.Blobs)
	to := registrytest.Start(t, registrytest.Options{})
	n := harness.Start(t, to.Addr, harness.Config{"builds": map[string]any{"runningPerNode": 1}})
	first := strings.TrimSpace(harness.MustCLI(t, n.GRPC, "build", "--ref", proxy.Addr+"/team/one:1", "--detach"))
	second := strings.TrimSpace(harness.MustCLI(t, n.GRPC, "build", "--ref", proxy.Addr+"/team/two:1", "--detach"))
	const why = "all nodes that can run it are full"
	testkit.Eventually(t, 20*time.Second, "the status of the second build has the reason why it waits", func() bool {
		return strings.Contains(harness.MustCLI(t, n.GRPC, "status", second), why)
	})
	if out := harness.MustCLI(t, n.GRPC, "list"); strings.Count(out, why) != 1 {
		t.Errorf("list: %s", out)
	}
	if out := harness.MustCLI(t, n.GRPC, "status", first); strings.Contains(out, "waiting") {
		t.Errorf("the build that runs: %s", out)
	}
	release()
	if out := harness.MustCLI(t, n.GRPC, "status", "--wait", second); strings.Contains(out, "waiting") {
		t.Errorf("the build that ended: %s", out)
	}
}
