package registry

import (
	"context"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// Test_CachedDigests_ASuccessIsSeenByAllNodes checks that all nodes look up a workspace reference
// again after a build of it on any node, although registry.cacheFor lets them cache its digest.
func Test_CachedDigests_ASuccessIsSeenByAllNodes(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	base := reg.Push(t, "base:1", registrytest.RandomImage(t, 1, 100))
	c := harness.StartCluster(t, 3, reg.Addr, harness.Config{"registry": map[string]any{"allowLoopback": true, "cacheFor": "1h"}})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	src := harness.RefSource(reg.Addr + "/base:1")
	seen := func(n *harness.Node) *imagebuilderv1.ResolveWorkspaceImageResponse {
		t.Helper()
		res, err := n.Native.ResolveWorkspaceImage(ctx, &imagebuilderv1.ResolveWorkspaceImageRequest{Source: src})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	ref := seen(c.Nodes[0]).Ref
	older := reg.Push(t, ref[len(reg.Addr)+1:], registrytest.RandomImage(t, 1, 100))
	for _, n := range c.Nodes {
		if got := seen(n).Digest; got != older {
			t.Fatalf("node %s sees %s, want %s", n.Name, got, older)
		}
	}
	res, err := c.Nodes[0].Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{Source: src, Force: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range c.Nodes {
		if b := n.Wait(t, ctx, res.Build.Id); b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED || b.Digest != base {
			t.Fatalf("the build ended as %v", b)
		}
		if got := seen(n).Digest; got != base {
			t.Errorf("node %s sees %s after the build, want %s", n.Name, got, base)
		}
	}
}
