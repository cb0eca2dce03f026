package cluster

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// Test_Cluster_AnyNodeAnswers requests builds at all nodes. Every node returns status, end and log
// of each build.
func Test_Cluster_AnyNodeAnswers(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	reg := registrytest.Start(t, registrytest.Options{})
	refs := harness.PushImages(t, reg, 12)
	c := harness.StartCluster(t, 3, reg.Addr, nil)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			n := c.Nodes[i%3]
			res, err := n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
				RequestId: uuid.NewString(), Source: harness.RefSource(refs[i]), Force: true, Requester: fmt.Sprint(i),
			})
			if err != nil {
				t.Error(err)
				return
			}
			other := c.Nodes[(i+1)%3]
			b := other.Wait(t, ctx, res.Build.Id)
			if b == nil || b.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
				t.Errorf("build %s: %v", res.Build.Id, b)
				return
			}
			logs := map[string]bool{}
			for _, n := range c.Nodes {
				text, err := n.ReadLog(ctx, res.Build.Id, 1)
				if err != nil || text == "" {
					t.Errorf("log of %s on %s: %q, %v", res.Build.Id, n.Name, text, err)
				}
				logs[text] = true
			}
			if len(logs) != 1 {
				t.Errorf("the nodes show %d different logs of %s", len(logs), res.Build.Id)
			}
		})
	}
	wg.Wait()
}
