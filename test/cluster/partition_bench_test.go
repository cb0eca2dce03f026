//go:build faults

package cluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/netns"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Benchmark_Partition_Clients measures how long BuildImage takes for clients of the package client
// while a part of the network is down for ten seconds. Eight clients know all three nodes, begin with
// different ones, and together make 20 calls a second, whether or not earlier ones have returned. One
// iteration is one partition. Afterwards the network works again, and every acknowledged build
// succeeds.
func Benchmark_Partition_Clients(b *testing.B) {
	for name, cut := range map[string]func(a *netns.Cluster, lead *harness.Node, others []*harness.Node){
		"bridge/leader": func(a *netns.Cluster, lead *harness.Node, others []*harness.Node) {
			a.Net.Part([]*netns.Host{a.Host(lead)}, []*netns.Host{a.Host(others[0])})
		},
		"bridge/followers": func(a *netns.Cluster, _ *harness.Node, others []*harness.Node) {
			a.Net.Part([]*netns.Host{a.Host(others[0])}, []*netns.Host{a.Host(others[1])})
		},
		"one-way/leader-hears-no-node": func(a *netns.Cluster, lead *harness.Node, _ []*harness.Node) {
			a.Host(lead).Deaf(a.Net.Others(a.Host(lead))...)
		},
		"one-way/follower-hears-no-node": func(a *netns.Cluster, _ *harness.Node, others []*harness.Node) {
			a.Host(others[0]).Deaf(a.Net.Others(a.Host(others[0]))...)
		},
		"one-way/leader-does-not-hear-a-follower": func(a *netns.Cluster, lead *harness.Node, others []*harness.Node) {
			a.Host(lead).Deaf(a.Host(others[0]))
		},
		"one-way/follower-does-not-hear-the-leader": func(a *netns.Cluster, lead *harness.Node, others []*harness.Node) {
			a.Host(others[0]).Deaf(a.Host(lead))
		},
	} {
		b.Run(name, func(b *testing.B) {
			a := netns.StartCluster(b, 3)
			var took []time.Duration
			failed := 0
			for range b.N {
				harness.AwaitMembers(b, a.Cluster, "all nodes are there", func(r *imagebuilderv1.MembersResponse) bool { return r.FailureTolerance == 1 })
				lead := a.Leader()
				others := a.Others(lead)
				o := startOpenLoad(b, a.Cluster, a.Refs)
				<-time.After(2 * time.Second) // without the fault: the clients connect
				during := o.begin()
				cut(a, lead, others)
				<-time.After(10 * time.Second) // the fault
				o.begin()
				a.Net.Heal()
				during.calls.Wait()
				took, failed = append(took, during.took...), failed+during.failed
				o.end(a.Cluster)
			}
			slices.Sort(took)
			at := func(share float64) float64 {
				return float64(took[min(len(took)-1, int(share*float64(len(took))))].Milliseconds())
			}
			b.ReportMetric(at(0.5), "ms-p50")
			b.ReportMetric(at(0.99), "ms-p99")
			b.ReportMetric(at(1), "ms-max")
			b.ReportMetric(float64(len(took)), "calls")
			b.ReportMetric(float64(failed), "failed")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// openLoad makes calls at a fixed rate, whether or not earlier ones have returned.
type openLoad struct {
	t       testing.TB
	stop    context.CancelFunc
	ticks   sync.WaitGroup
	calls   sync.WaitGroup
	clients []*client.Client

	mu  sync.Mutex
	now *period
	ids []string // acknowledged builds
}

// period is the calls that began in a certain time.
type period struct {
	calls  sync.WaitGroup
	took   []time.Duration
	failed int
}

// startOpenLoad starts eight clients that together make 20 calls a second.
func startOpenLoad(t testing.TB, c *harness.Cluster, refs []string) *openLoad {
	t.Helper()
	l := &openLoad{t: t, now: &period{}}
	var ctx context.Context
	ctx, l.stop = context.WithCancel(t.Context())
	for i := range 8 {
		var o client.Options
		for k := range c.Nodes {
			o.Servers = append(o.Servers, c.Nodes[(i+k)%len(c.Nodes)].GRPC)
		}
		cl, err := client.New(o)
		if err != nil {
			t.Fatal(err)
		}
		l.clients = append(l.clients, cl)
		l.ticks.Go(func() {
			tick := time.NewTicker(400 * time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
					l.call(cl, refs[rand.IntN(len(refs))], fmt.Sprint("r", i))
				}
			}
		})
	}
	return l
}

// begin begins a period and returns it. Its fields may be read after the next one has begun and its
// calls have returned.
func (l *openLoad) begin() *period {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = &period{}
	return l.now
}

// call requests a build and does not wait for the response.
func (l *openLoad) call(cl *client.Client, ref, who string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.now
	l.calls.Add(1)
	p.calls.Go(func() {
		defer l.calls.Done()
		ctx, cancel := context.WithTimeout(l.t.Context(), time.Minute)
		defer cancel()
		begin := time.Now()
		res, err := cl.Build(ctx, &imagebuilderv1.BuildImageRequest{Source: harness.RefSource(ref), Force: true, Requester: who})
		took := time.Since(begin)
		l.mu.Lock()
		defer l.mu.Unlock()
		p.took = append(p.took, took)
		if err != nil {
			p.failed++
			l.t.Logf("a call failed after %s: %v", took.Round(time.Millisecond), err)
			return
		}
		l.ids = append(l.ids, res.Build.Id)
	})
}

// end stops the clients, and checks that every acknowledged build succeeds.
func (l *openLoad) end(c *harness.Cluster) {
	l.t.Helper()
	l.stop()
	l.ticks.Wait()
	l.calls.Wait()
	for _, cl := range l.clients {
		defer cl.Close()
	}
	ctx := testkit.Context(l.t, 2*time.Minute)
	for _, id := range l.ids {
		if b := c.Nodes[0].Wait(l.t, ctx, id); b.GetPhase() != imagebuilderv1.Phase_PHASE_SUCCEEDED {
			l.t.Errorf("acknowledged build %s is %s: %s", id, b.GetPhase(), b.GetMessage())
		}
	}
}
