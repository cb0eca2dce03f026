package gitpod

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Benchmark_Gitpod_ResolveCached measures 32 callers that resolve a cached reference. Eight more
// callers resolve references of a registry that does not respond. Each caller calls without a
// pause, which measures the processors, or a hundred or twenty times a second. In turn with the
// node, the bare server returns the same responses.
func Benchmark_Gitpod_ResolveCached(b *testing.B) {
	const callers, calls = 32, 50
	reg := registrytest.Start(b, registrytest.Options{})
	reg.Push(b, "team/app:1", registrytest.RandomImage(b, 1, 1<<10))
	hung := registrytest.NewHandlerProxy(b, http.NotFoundHandler())
	hung.Hang(func(*http.Request) bool { return true }, -1)
	req := &builder.ResolveBaseImageRequest{Ref: reg.Addr + "/team/app:1"}
	n := harness.Start(b, reg.Addr, harness.Config{"refCache": map[string]any{"refs": []string{req.Ref}}})
	testkit.Eventually(b, time.Minute, "the reference is resolved", func() bool {
		res, err := n.Native.ListCachedRefs(b.Context(), &imagebuilderv1.ListCachedRefsRequest{})
		return err == nil && len(res.Refs) == 1 && res.Refs[0].Digest != ""
	})
	ctx, cancel := context.WithCancel(b.Context())
	var others sync.WaitGroup
	defer others.Wait()
	defer cancel()
	for i := range 8 {
		others.Go(func() {
			for ctx.Err() == nil {
				_, _ = n.Gitpod.ResolveBaseImage(ctx, &builder.ResolveBaseImageRequest{Ref: fmt.Sprint(hung.Addr, "/team/app:", i)}) // it hangs
			}
		})
	}
	response, err := n.Gitpod.ResolveBaseImage(b.Context(), req)
	if err != nil {
		b.Fatal(err)
	}
	plain := bare(b, response)
	// round runs all callers and returns the duration of each call.
	round := func(client builder.ImageBuilderClient, pause time.Duration) []time.Duration {
		times := make([]time.Duration, callers*calls)
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() {
				next := time.Now().Add(pause * time.Duration(c) / callers)
				for i := range calls {
					time.Sleep(time.Until(next))
					began := time.Now()
					if _, err := client.ResolveBaseImage(b.Context(), req); err != nil {
						b.Error(err)
					}
					times[c*calls+i] = time.Since(began)
					next = next.Add(pause)
				}
			})
		}
		wg.Wait()
		return times
	}
	for name, pause := range map[string]time.Duration{"each=unbounded": 0, "each=100/s": 10 * time.Millisecond, "each=20/s": 50 * time.Millisecond} {
		b.Run(name, func(b *testing.B) {
			var times [2][]time.Duration
			for b.Loop() {
				for k, client := range []builder.ImageBuilderClient{n.Gitpod, plain} {
					times[k] = append(times[k], round(client, pause)...)
				}
			}
			for k, of := range []string{"", "bare-"} {
				slices.Sort(times[k])
				for unit, at := range map[string]float64{"p50-ms": .5, "p99-ms": .99} {
					b.ReportMetric(times[k][int(float64(len(times[k])-1)*at)].Seconds()*1000, of+unit)
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}
