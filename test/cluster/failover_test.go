package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// load requests builds through all nodes of a cluster and records the acknowledged ones.
type load struct {
	t    testing.TB
	c    *harness.Cluster
	refs []string

	mu    sync.Mutex
	acked map[string]bool // build ids

	stop context.CancelFunc
	done sync.WaitGroup
}

// startLoad runs clients that together request perSecond builds a second.
func startLoad(t testing.TB, c *harness.Cluster, refs []string, clients int, perSecond float64) *load {
	l := &load{t: t, c: c, refs: refs, acked: map[string]bool{}}
	var ctx context.Context
	ctx, l.stop = context.WithCancel(t.Context())
	limit := rate.NewLimiter(rate.Limit(perSecond), 1)
	for i := range clients {
		l.done.Go(func() {
			for limit.Wait(ctx) == nil {
				// Not with the load's context: a request that was sent is awaited.
				n := c.Nodes[i%len(c.Nodes)]
				if b := l.request(t.Context(), n); b != nil {
					l.record(b)
				}
			}
		})
	}
	return l
}

func (l *load) record(b *imagebuilderv1.Build) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[b.Id] = true
}

// request requests one build, at other nodes if n fails.
func (l *load) request(ctx context.Context, n *harness.Node) *imagebuilderv1.Build {
	return l.requestAt(ctx, n, l.c.Nodes)
}

// requestAt is request for a test in which only some nodes respond: a call to a host that is gone would
// wait for its whole time.
func (l *load) requestAt(ctx context.Context, n *harness.Node, nodes []*harness.Node) *imagebuilderv1.Build {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req := &imagebuilderv1.BuildImageRequest{
		RequestId: uuid.NewString(), Source: harness.RefSource(l.refs[rand.IntN(len(l.refs))]),
		Force: true, Requester: fmt.Sprintf("r%d", rand.IntN(8)),
	}
	for ctx.Err() == nil {
		res, err := n.Native.BuildImage(ctx, req)
		if err == nil {
			return res.Build
		}
		n = nodes[rand.IntN(len(nodes))]
		time.Sleep(5 * time.Millisecond)
	}
	l.t.Errorf("a build was not acknowledged in 30 s")
	return nil
}

// end stops the load and checks that every acknowledged build succeeds.
func (l *load) end() {
	l.t.Helper()
	l.stop()
	l.done.Wait()
	ctx, cancel := context.WithTimeout(l.t.Context(), 3*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	ids := make(chan string)
	for range 16 {
		wg.Go(func() {
			for id := range ids {
				b := l.c.Running()[0].Wait(l.t, ctx, id)
				if b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
					l.t.Errorf("acknowledged build %s is %s: %s", id, b.GetPhase(), b.GetMessage())
				}
			}
		})
	}
	for id := range l.acked {
		ids <- id
	}
	close(ids)
	wg.Wait()
	l.t.Logf("%d builds were acknowledged and succeeded", len(l.acked))
}

// killLeaders kills the leader again and again under load. For each kill it returns the time until
// a build was acknowledged through a surviving node.
func killLeaders(t testing.TB, c *harness.Cluster, l *load, kills int) (took []time.Duration) {
	for range kills {
		lead := c.Leader()
		survivors := c.Others(lead)
		first := make(chan time.Duration, len(survivors))
		var wg sync.WaitGroup
		begin := time.Now()
		lead.Kill9()
		for _, n := range survivors {
			wg.Go(func() {
				if b := l.request(t.Context(), n); b != nil {
					first <- time.Since(begin)
					l.record(b)
				}
			})
		}
		took = append(took, <-first)
		wg.Wait()
		lead.AwaitExit()
		lead.Run()
		testkit.Eventually(t, 30*time.Second, "the restarted node follows", func() bool {
			m, err := survivors[0].Members(t.Context(), false)
			if err != nil {
				return false
			}
			for _, x := range m.Members {
				if x.Name == lead.Name {
					return x.State == "alive" && x.TrailsBy < 100
				}
			}
			return false
		})
	}
	slices.Sort(took)
	return took
}

// Benchmark_Failover_Kill measures the time from kill -9 of the leader to the first build that is
// acknowledged through a surviving node, under load.
func Benchmark_Failover_Kill(b *testing.B) {
	c, refs := harness.StartClusterWithImages(b, 3, 100, nil)
	l := startLoad(b, c, refs, 32, 20)
	b.ResetTimer()
	took := killLeaders(b, c, l, b.N)
	b.StopTimer()
	l.end()
	report(b, took)
}

// report reports the median, the 90th percentile and the maximum of durations.
func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(ms(took[len(took)/2]), "ms-median")
	b.ReportMetric(ms(took[len(took)*9/10]), "ms-p90")
	b.ReportMetric(ms(took[len(took)-1]), "ms-max")
	b.ReportMetric(0, "ns/op")
	b.Logf("all: %v", took)
}
