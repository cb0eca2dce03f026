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

// Test_RefCache_IsServedByEveryNode adds a reference to the cache. Every node resolves it from
// memory, even without the registry, after the death of the leader, after a start of all nodes, and
// in another cluster from a snapshot. No node does so after the reference was removed.
func Test_RefCache_IsServedByEveryNode(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	first := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	ref := reg.Addr + "/team/app:1"
	over := harness.Config{"log": map[string]any{"level": "info"}, "registry": map[string]any{"timeout": "2s"}}
	c := harness.StartCluster(t, 3, reg.Addr, over)
	harness.AwaitMembers(t, c, "the feature level is that of the cache", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel >= 3 })

	// awaitDigest waits until all nodes resolve the reference to a digest.
	awaitDigest := func(c *harness.Cluster, what, digest string) {
		t.Helper()
		begin := time.Now()
		for _, n := range c.Nodes {
			testkit.Eventually(t, 30*time.Second, n.Name+" resolves to "+what, func() bool {
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
	awaitDigest(c, "the digest in the cache, not the new one in the registry", first)
	operate(c.Nodes[2], "cache", "refresh", ref)
	awaitDigest(c, "the refreshed digest", second)

	file := filepath.Join(t.TempDir(), "backup.ib")
	operate(c.Nodes[0], "snapshot", "save", file)
	reg.Stop()
	awaitDigest(c, "it without the registry", second)
	lead := c.Leader()
	lead.Kill()
	lead.Run()
	c.Leader()
	awaitDigest(c, "it after the death of the leader", second)
	for _, n := range c.Nodes {
		n.Kill()
	}
	for _, n := range c.Nodes {
		n.Launch()
	}
	for _, n := range c.Nodes {
		n.AwaitReady()
	}
	awaitDigest(c, "it after a start of all nodes", second)

	other := harness.StartCluster(t, 3, reg.Addr, over)
	harness.AwaitMembers(t, other, "the feature level is that of the cache", func(r *imagebuilderv1.MembersResponse) bool { return r.FeatureLevel >= 3 })
	operate(other.Leader(), "snapshot", "restore", file)
	awaitDigest(other, "it from a snapshot in another cluster", second)

	operate(c.Nodes[1], "cache", "remove", ref)
	for _, n := range c.Nodes {
		testkit.Eventually(t, 30*time.Second, n.Name+" sends requests to the registry again, which is down", func() bool {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := n.Gitpod.ResolveBaseImage(ctx, &builder.ResolveBaseImageRequest{Ref: ref})
			return err != nil
		})
	}
}
