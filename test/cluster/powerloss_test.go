//go:build faults

package cluster

import (
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_PowerLoss takes the power from one, two or three nodes together at random moments, while
// clients write, and brings it back. All nodes start again, and all have every acknowledged build.
// With SOAK there are 50 moments.
func Test_PowerLoss(t *testing.T) {
	c, refs, on := clusterOnDisks(t, 512<<20, harness.Config{"raft": map[string]any{"segmentBytes": 256 << 10, "snapshotThreshold": 300, "snapshotInterval": "1s", "trailingLogs": 400}})
	w := startWriters(t, c, refs)
	for i := range testkit.InSoak(50, 2) {
		w.await(time.Minute, "builds are acknowledged")
		<-time.After(rand.N(2 * time.Second)) // the time until the fault
		cut := slices.Clone(c.Nodes)
		rand.Shuffle(len(cut), func(i, k int) { cut[i], cut[k] = cut[k], cut[i] })
		cut = cut[:len(cut)-i%2*rand.IntN(len(cut))] // at first all
		var all sync.WaitGroup
		for _, n := range cut {
			all.Go(func() { on[n].Cut(n.Pid()) })
		}
		all.Wait()
		for _, n := range cut {
			n.Kill()
			on[n].Restore()
		}
		for _, n := range cut {
			n.Launch()
		}
		for _, n := range cut {
			n.AwaitReady() // it ends the test if the process ends
		}
		harness.AwaitMembers(t, c, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 })
		w.mu.Lock()
		acked := maps.Clone(w.ids)
		w.mu.Unlock()
		for _, n := range c.Nodes {
			missing := maps.Clone(acked)
			for _, b := range allBuilds(t, n) {
				delete(missing, b.Id)
			}
			if len(missing) > 0 {
				t.Errorf("power loss %d, of %d nodes: %s lacks %d acknowledged builds: %v", i, len(cut), n.Name, len(missing), slices.Collect(maps.Keys(missing)))
			}
		}
	}
	w.end()
	harness.AwaitSameBuilds(t, c)
}
