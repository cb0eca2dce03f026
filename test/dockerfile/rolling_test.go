//go:build faults

package dockerfile

import (
	"context"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
)

// Test_Rolling_RestartDuringDockerfiles restarts all nodes while long Dockerfile builds run. All
// builds succeed, and no attempt is counted.
func Test_Rolling_RestartDuringDockerfiles(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "library/busybox:1", registrytest.BusyboxImage(t, "cat", "sleep", "echo", "seq"))
	base := reg.Addr + "/library/busybox:1"
	bk := buildkittest.StartDaemon(t, t.TempDir())
	c := harness.StartCluster(t, 3, reg.Addr, harness.Config{
		"buildkit": map[string]any{"addresses": []string{bk.Addr()}}, "log": map[string]any{"level": "info"},
		"shutdown": map[string]any{"drain": "2s"},
	})
	w := &buildkittest.Node{Node: c.Nodes[0], Registry: reg, Daemon: bk, Base: base}
	var o client.Options
	for _, n := range c.Nodes {
		o.Servers = append(o.Servers, n.GRPC)
	}
	cl, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	ids := startBuilds(t, w, eightLines(""))
	for _, n := range c.Nodes {
		n.Stop()
		n.Run()
		harness.AwaitMembers(t, c, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 })
	}
	retried := 0
	for _, id := range ids {
		b, err := cl.Wait(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if b.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
			t.Errorf("build %s is %s: %s", id, b.Phase, b.Message)
		}
		for _, a := range b.Attempts {
			if a.Counted {
				t.Errorf("attempt %d of build %s was counted: %s", a.Number, id, a.Message)
			}
		}
		retried += len(b.Attempts) - 1
	}
	t.Logf("20 builds succeeded, with %d further attempts", retried)
}
