package registry_test

import (
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
)

// BenchmarkCopy_WithoutMount copies an image of 100 MB in ten layers from one registry to new
// repositories of another, one copy at a time and 16 at a time. It compares this package (ours)
// with go-containerregistry alone (bare). The two alternate, so that the load of the machine
// affects both alike. The metric ratio is the time of ours divided by that of bare.
func BenchmarkCopy_WithoutMount(b *testing.B) {
	const layers, bytesPerLayer = 10, 10 << 20
	src, dst := registrytest.Start(b, registrytest.Options{Quiet: true}), registrytest.Start(b, registrytest.Options{Quiet: true})
	img := registrytest.RandomImage(b, layers, bytesPerLayer)
	digest := src.Push(b, "a:1", img)
	c, err := registry.New(registry.Options{AllowLoopback: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	ours := func(ctx context.Context, repo string) error {
		_, err := c.Copy(ctx, src.Addr+"/a@"+digest, all, repo, all, io.Discard)
		return err
	}
	bare := func(ctx context.Context, repo string) error {
		from, err := name.NewDigest(src.Addr + "/a@" + digest)
		if err != nil {
			return err
		}
		img, err := remote.Image(from, remote.WithContext(ctx))
		if err != nil {
			return err
		}
		to, err := name.NewDigest(repo + "@" + digest)
		if err != nil {
			return err
		}
		return remote.Write(to, img, remote.WithContext(ctx), remote.WithJobs(4))
	}
	made := 0
	for _, copies := range []int{1, 16} {
		b.Run(fmt.Sprint("copies=", copies), func(b *testing.B) {
			round := func(copy func(context.Context, string) error) time.Duration {
				begin := time.Now()
				var wg sync.WaitGroup
				for range copies {
					made++
					repo := fmt.Sprintf("%s/to-%d", dst.Addr, made)
					wg.Go(func() {
						if err := copy(b.Context(), repo); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
				return time.Since(begin)
			}
			round(ours)
			round(bare)
			var ourTime, bareTime time.Duration
			b.ResetTimer()
			for i := range b.N {
				if i%2 == 0 { // alternate the order, because the first may have a colder disk cache
					ourTime += round(ours)
					bareTime += round(bare)
				} else {
					bareTime += round(bare)
					ourTime += round(ours)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64(ourTime)/float64(bareTime), "ratio")
			b.ReportMetric(ourTime.Seconds()/float64(b.N), "s-ours")
			b.ReportMetric(bareTime.Seconds()/float64(b.N), "s-bare")
		})
	}
}
