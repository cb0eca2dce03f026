//go:build faults

package test

import (
	"context"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// Test_Campaign_RandomKills asks for builds while a node is killed every few
// seconds and comes back: all end well, each image is there, none was built by
// two builds at once. CAMPAIGN=5m makes it long.
func Test_Campaign_RandomKills(t *testing.T) {
	length, every, builds := 30*time.Second, 5*time.Second, 60
	if s := os.Getenv("CAMPAIGN"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
		every, builds = 10*time.Second, 300
	}
	c, refs := startCluster(t, 3, builds)
	var o client.Options
	for _, n := range c.Nodes {
		o.Servers = append(o.Servers, n.GRPC)
	}
	cl, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx, cancel := context.WithTimeout(t.Context(), length+3*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	ends := make(chan *imagebuilderv1.Build, builds)
	for i, ref := range refs {
		wg.Go(func() {
			<-time.After(length * time.Duration(i) / time.Duration(builds))
			res, err := cl.Build(ctx, &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(ref), Force: true, Requester: "r"})
			if err != nil {
				t.Errorf("build %d: %v", i, err)
				return
			}
			b, err := cl.Wait(ctx, res.Build.Id)
			if err != nil {
				t.Errorf("build %d: %v", i, err)
				return
			}
			ends <- b
		})
	}
	kills := 0
	for begin := time.Now(); time.Since(begin) < length; kills++ {
		n := c.Nodes[rand.IntN(len(c.Nodes))]
		n.Kill()
		<-time.After(every / 4)
		n.Run()
		<-time.After(every * 3 / 4)
	}
	wg.Wait()
	close(ends)
	succeededBuilds, seen := 0, map[string]string{}
	for b := range ends {
		if b.Phase != succeeded {
			t.Errorf("build %s is %s: %s", b.Id, b.Phase, b.Message)
			continue
		}
		succeededBuilds++
		if got := digestAt(t, b.Ref); got != b.Digest {
			t.Errorf("the registry has %q at %s, the build says %s", got, b.Ref, b.Digest)
		}
		if other := seen[b.Ref]; other != "" {
			t.Errorf("%s was built by %s and %s", b.Ref, other, b.Id)
		}
		seen[b.Ref] = b.Id
	}
	t.Logf("%d kills, %d of %d builds succeeded, each image is in the registry", kills, succeededBuilds, builds)
	sameEverywhere(t, c)
}

// Test_Rolling_RestartDuringDockerfiles restarts all nodes while Dockerfiles
// build that take long: all succeed, none was counted as tried.
func Test_Rolling_RestartDuringDockerfiles(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "library/busybox:1", registrytest.BusyboxImage(t, "cat", "sleep", "echo", "seq"))
	base := reg.Addr + "/library/busybox:1"
	bk := startBuildKit(t, t.TempDir())
	c := harness.StartCluster(t, 3, reg.Addr, harness.Config{
		"buildkit": map[string]any{"addresses": []string{bk.Addr()}}, "log": map[string]any{"level": "info"},
		"shutdown": map[string]any{"drain": "2s"},
	})
	w := &workshop{Node: c.Nodes[0], reg: reg, bk: bk, base: base}
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
	ids := w.start20(t, "")
	for _, n := range c.Nodes {
		n.Stop()
		n.Run()
		members(t, c, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 })
	}
	retried := 0
	for _, id := range ids {
		b, err := cl.Wait(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if b.Phase != succeeded {
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
