package registry

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_RefCache_IsServedByEveryNode: what operators add is answered by every node
// from memory, also once the registry is gone, the leader has died, all nodes were
// started again, and from a snapshot in another cluster; what they remove is not.
func Test_RefCache_IsServedByEveryNode(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	first := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	ref := reg.Addr + "/team/app:1"
	over := harness.Config{"log": map[string]any{"level": "info"}, "registry": map[string]any{"timeout": "2s"}}
	c := harness.StartCluster(t, 3, reg.Addr, over)
	harness.AwaitMembers(t, c, "the feature level is that of the cache", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel >= 3 })

	// answers waits until all nodes answer with a digest, from memory or not.
	answers := func(c *harness.Cluster, what, digest string) {
		t.Helper()
		begin := time.Now()
		for _, n := range c.Nodes {
			testkit.Eventually(t, 30*time.Second, n.Name+" answers "+what, func() bool {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				res, err := n.Gitpod.ResolveBaseImage(ctx, &builder.ResolveBaseImageRequest{Ref: ref})
				return err == nil && strings.HasSuffix(res.Ref, "@"+digest)
			})
		}
		t.Logf("%s: all nodes after %s", what, time.Since(begin).Round(time.Millisecond))
	}
	operate := func(n *harness.Node, args ...string) string {
		t.Helper()
		out, errOut, status := harness.CLI(t, n.Socket(), args...)
		if status != 0 {
			t.Fatalf("%v: status %d: %s%s", args, status, out, errOut)
		}
		return out
	}
	refreshed := func(c *harness.Cluster, digest string) {
		t.Helper()
		testkit.Eventually(t, 30*time.Second, "the cache holds "+digest, func() bool {
			return strings.Contains(operate(c.Nodes[1], "cache", "list", "-o", "json"), digest)
		})
	}

	operate(c.Nodes[0], "cache", "add", ref, "--interval", "1h")
	refreshed(c, first)
	second := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 2, 1<<10))
	answers(c, "what the cache holds, not what the registry has since", first)
	operate(c.Nodes[2], "cache", "refresh", ref)
	answers(c, "what was refreshed", second)

	file := filepath.Join(t.TempDir(), "backup.ib")
	operate(c.Nodes[0], "snapshot", "save", file)
	reg.Stop()
	answers(c, "without the registry", second)
	lead := c.Leader()
	lead.Kill()
	lead.Run()
	c.Leader()
	answers(c, "after the death of the leader", second)
	for _, n := range c.Nodes {
		n.Kill()
	}
	for _, n := range c.Nodes {
		n.Launch()
	}
	for _, n := range c.Nodes {
		n.AwaitReady()
	}
	answers(c, "after a start of all nodes", second)

	other := harness.StartCluster(t, 3, reg.Addr, over)
	harness.AwaitMembers(t, other, "the feature level is that of the cache", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel >= 3 })
	operate(other.Leader(), "snapshot", "restore", file)
	answers(other, "from a snapshot in another cluster", second)

	operate(c.Nodes[1], "cache", "remove", ref)
	for _, n := range c.Nodes {
		testkit.Eventually(t, 30*time.Second, n.Name+" asks the registry again, which is gone", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := n.Gitpod.ResolveBaseImage(ctx, &builder.ResolveBaseImageRequest{Ref: ref})
			return err != nil
		})
	}
}
