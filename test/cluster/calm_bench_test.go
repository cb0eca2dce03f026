package cluster

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"github.com/image-builder-ha/image-builder/test/harness"
)

// calmDuration returns the duration of the benchmark. The figures in the documentation are measured
// with CALM=10m.
func calmDuration(b *testing.B) time.Duration {
	b.Helper()
	s := os.Getenv("CALM")
	if s == "" {
		return 20 * time.Second
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		b.Fatal(err)
	}
	return d
}

// Benchmark_Calm counts elections in a cluster without faults at 20 builds a second: while all
// processors are busy, and while bulk writes go to the disk of all nodes.
func Benchmark_Calm(b *testing.B) {
	for name, disturb := range map[string]func(ctx context.Context, b *testing.B, dir string, done *sync.WaitGroup){"cpu": useCPUs, "disk": writeBulk} {
		b.Run(name, func(b *testing.B) {
			c, refs := harness.StartClusterWithImages(b, 3, 100, harness.Config{"history": map[string]any{"total": 100_000, "perRequester": 100_000}})
			c.Leader()
			before := term(b, c.Nodes[0])
			l := startLoad(b, c, refs, 32, 20)
			ctx, cancel := context.WithTimeout(b.Context(), calmDuration(b))
			defer cancel()
			var done sync.WaitGroup
			b.ResetTimer()
			disturb(ctx, b, c.Dir, &done)
			<-ctx.Done()
			done.Wait()
			b.StopTimer()
			b.ReportMetric(float64(term(b, c.Nodes[0])-before), "elections")
			l.end()
			b.ReportMetric(0, "ns/op")
		})
	}
}

// useCPUs keeps twice as many goroutines busy as there are processors.
func useCPUs(ctx context.Context, _ *testing.B, _ string, done *sync.WaitGroup) {
	for range 2 * runtime.NumCPU() {
		done.Go(func() {
			for x := 0; ctx.Err() == nil; {
				for range 1 << 20 {
					x = x*31 + 7
				}
			}
		})
	}
}

// writeBulk writes up to 400 MiB a second to a file beside the nodes' data.
func writeBulk(ctx context.Context, b *testing.B, dir string, done *sync.WaitGroup) {
	f, err := os.Create(filepath.Join(dir, "bulk"))
	if err != nil {
		b.Fatal(err)
	}
	var written atomic.Int64
	begin := time.Now()
	done.Go(func() {
		defer f.Close()
		block := make([]byte, 4<<20)
		for i := range block {
			block[i] = byte(i * 7)
		}
		limit := rate.NewLimiter(100, 1) // blocks a second
		for at := int64(0); limit.Wait(ctx) == nil; at = (at + int64(len(block))) % (4 << 30) {
			if _, err := f.WriteAt(block, at); err != nil {
				b.Error(err)
				return
			}
			written.Add(int64(len(block)))
		}
		b.ReportMetric(float64(written.Load())/(1<<20)/time.Since(begin).Seconds(), "MiB/s")
	})
}

// term returns the Raft term that a node knows.
func term(t testing.TB, n *harness.Node) uint64 {
	t.Helper()
	res, err := n.Members(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	return res.Term
}
