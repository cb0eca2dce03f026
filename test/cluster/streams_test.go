package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/client"
	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_Streams_GitpodBuildSurvivesTheLeader kills the leader while followers serve Build streams.
// No stream breaks, and a repeated Build on the other survivor attaches.
func Test_Streams_GitpodBuildSurvivesTheLeader(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "library/slow:1", registrytest.RandomImage(t, 3, 1<<20))
	proxy := registrytest.NewProxy(t, reg)
	to := registrytest.Start(t, registrytest.Options{})
	c := harness.StartCluster(t, 3, to.Addr, nil)
	lead := c.Leader()
	others := c.Others(lead)
	ctx := testkit.Context(t, time.Minute)
	// The proxy holds the blobs back until the leader is dead.
	release := proxy.Hold(registrytest.Blobs)
	req := func() *builder.BuildRequest {
		return &builder.BuildRequest{Source: harness.GitpodRef(proxy.Addr + "/library/slow:1"), ForceRebuild: true, TriggeredBy: "u"}
	}
	type end struct {
		all []*builder.BuildResponse
		err error
	}
	ends := make(chan end, 4)
	follow := func(n *harness.Node) {
		all, err := n.BuildGitpod(ctx, req())
		ends <- end{all, err}
	}
	go follow(others[0])
	testkit.Eventually(t, 20*time.Second, "the build runs", func() bool { return active(t, others[0]) == 1 })
	go follow(others[1])
	lead.Kill()
	c.Leader()
	go follow(others[1])
	go follow(others[0])
	testkit.Eventually(t, 20*time.Second, "a survivor leads", func() bool { return active(t, others[0]) == 1 })
	release()
	ids := map[string]bool{}
	for range 4 {
		e := <-ends
		if e.err != nil {
			t.Errorf("a stream broke: %v", e.err)
			continue
		}
		if last := e.all[len(e.all)-1]; last.Status != builder.BuildStatus_done_success {
			t.Errorf("a stream ended with %s: %s", last.Status, last.Message)
		}
		for _, m := range e.all {
			if id := m.GetInfo().GetBuildId(); id != "" {
				ids[id] = true
			}
		}
	}
	if len(ids) != 1 {
		t.Errorf("the streams followed %d builds: %v", len(ids), ids)
	}
}

// active returns how many builds have not ended, as a node knows them.
func active(t testing.TB, n *harness.Node) int {
	t.Helper()
	res, err := n.Native.ListBuilds(t.Context(), &imagebuilderv1.ListBuildsRequest{Filter: &imagebuilderv1.BuildFilter{Phases: []imagebuilderv1.Phase{
		imagebuilderv1.Phase_PHASE_QUEUED, imagebuilderv1.Phase_PHASE_ASSIGNED, imagebuilderv1.Phase_PHASE_STARTING, imagebuilderv1.Phase_PHASE_RUNNING, imagebuilderv1.Phase_PHASE_PUSHING,
	}}})
	if err != nil {
		return -1
	}
	return len(res.Builds)
}

// Test_Streams_WatchResumesOnAnotherNode kills one node after the other while a watch is open. The
// watch misses the end of no build.
func Test_Streams_WatchResumesOnAnotherNode(t *testing.T) {
	c, refs := harness.StartClusterWithImages(t, 3, 60, nil)
	var o client.Options
	for _, n := range c.Nodes {
		o.Servers = append(o.Servers, n.GRPC)
	}
	cl, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	ctx := testkit.Context(t, 2*time.Minute)
	var mu sync.Mutex
	ended, snapshots := map[string]bool{}, 0
	watching, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		done <- cl.Watch(watching, nil, func(e client.Event) error {
			mu.Lock()
			defer mu.Unlock()
			if e.SnapshotBegin {
				snapshots++
			}
			if e.Build.GetEndedAt() != nil {
				ended[e.Build.Id] = true
			}
			return nil
		})
	}()
	var ids []string
	for i, ref := range refs {
		res, err := cl.Build(ctx, &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(ref), Force: true, Requester: fmt.Sprint(i)})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, res.Build.Id)
		if i%10 == 5 {
			n := c.Nodes[i/10%3]
			n.Kill()
			n.Run()
		}
	}
	for _, id := range ids {
		if _, err := cl.Wait(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, 20*time.Second, "the watch has seen all ends", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for _, id := range ids {
			if !ended[id] {
				return false
			}
		}
		return true
	})
	stop()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v", err)
	}
	t.Logf("%d builds, %d snapshots", len(ids), snapshots)
}
