package bench

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// Benchmark_Sharding measures clusters of several sizes on one machine: reads by id through all
// nodes, and acknowledged builds through the leader and through the followers.
func Benchmark_Sharding(b *testing.B) {
	for _, nodes := range []int{1, 3, 5, 7} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			c, refs := harness.StartClusterWithImages(b, nodes, 50, harness.Config{"cluster": map[string]any{"voters": 5}, "log": map[string]any{"level": "warn"}})
			lead := c.Leader()
			others := c.Others(lead)
			id := harness.CreateBuild(b, lead, refs[0])
			b.Run("reads", func(b *testing.B) {
				callAll(b, c.Nodes, func(n *harness.Node, _ int64) error {
					_, err := n.Native.BuildStatus(b.Context(), &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}})
					return err
				})
			})
			for name, through := range map[string][]*harness.Node{"builds/leader": {lead}, "builds/forwarded": others} {
				if len(through) == 0 {
					continue
				}
				b.Run(name, func(b *testing.B) {
					callAll(b, through, func(n *harness.Node, i int64) error {
						_, err := n.Native.BuildImage(b.Context(), &imagebuilderv1.BuildImageRequest{
							RequestId: uuid.NewString(), Source: harness.RefSource(refs[i%int64(len(refs))]), Force: true, Requester: fmt.Sprint("r", i%64),
						})
						return err
					})
				})
			}
		})
	}
}

// callAll makes b.N calls by 32 clients over the nodes.
func callAll(b *testing.B, nodes []*harness.Node, call func(*harness.Node, int64) error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for k := range 32 {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if i > int64(b.N) {
					return
				}
				if err := call(nodes[(k+int(i))%len(nodes)], i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}
