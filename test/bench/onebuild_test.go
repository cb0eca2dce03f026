package bench

import (
	"fmt"
	"testing"
	"time"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// Benchmark_OneBuild requests one build after the other, copies by mount, through each of three
// nodes in turn. The cluster is idle otherwise: no other command makes the leader send the commit
// index to the followers.
func Benchmark_OneBuild(b *testing.B) {
	c, refs := harness.StartClusterWithImages(b, 3, 200, harness.Config{"log": map[string]any{"level": "warn"}})
	c.Leader()
	var acked, ended []time.Duration
	cpu := func() (sum float64) {
		for _, n := range c.Nodes {
			sum += harness.CPUSeconds(b, n.Pid())
		}
		return sum
	}
	before := cpu()
	for i := 0; b.Loop(); i++ {
		n := c.Nodes[i%len(c.Nodes)]
		began := time.Now()
		id := harness.CreateBuild(b, n, refs[i%len(refs)])
		acked = append(acked, time.Since(began))
		res, err := n.Native.BuildStatus(b.Context(), &imagebuilderv1.BuildStatusRequest{
			Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}, WaitFor: imagebuilderv1.Phase_PHASE_SUCCEEDED,
		})
		if err != nil || res.Build.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
			b.Fatalf("build %s: %v %v", id, res, err)
		}
		ended = append(ended, time.Since(began))
	}
	after := cpu()
	for what, times := range map[string][]time.Duration{"acknowledged": acked, "ended": ended} {
		for _, p := range []float64{.5, .99} {
			b.ReportMetric(percentile(times, p).Seconds()*1000, fmt.Sprintf("%s-p%.0f-ms", what, p*100))
		}
	}
	b.ReportMetric((after-before)*1000/float64(b.N), "cpu-ms/build")
	const idle = 5 * time.Second
	time.Sleep(idle)
	b.ReportMetric((cpu()-after)/idle.Seconds()*100, "idle-cpu-%")
	b.ReportMetric(0, "ns/op")
}
