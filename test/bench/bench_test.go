package bench

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// atClients runs f b.N times with 1, 32 and 128 clients.
func atClients(b *testing.B, f func(b *testing.B, i int)) {
	for _, clients := range []int{1, 32, 128} {
		b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) { runClients(b, clients, f) })
	}
}

// runClients runs f b.N times with so many clients. It reports operations per second, the median
// and the 99th percentile.
func runClients(b *testing.B, clients int, f func(b *testing.B, i int)) {
	times := make([]time.Duration, b.N)
	var next atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range clients {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(b.N); i = next.Add(1) - 1 {
				began := time.Now()
				f(b, int(i))
				times[i] = time.Since(began)
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
	b.ReportMetric(percentile(times, .5).Seconds()*1000, "p50-ms")
	b.ReportMetric(percentile(times, .99).Seconds()*1000, "p99-ms")
}

func Benchmark_Resolve(b *testing.B) {
	reg := registrytest.Start(b, registrytest.Options{})
	reg.Push(b, "team/app:1", registrytest.RandomImage(b, 1, 1<<10))
	n := harness.Start(b, reg.Addr, nil)
	atClients(b, func(b *testing.B, _ int) {
		if _, err := n.Gitpod.ResolveBaseImage(context.Background(), &builder.ResolveBaseImageRequest{Ref: reg.Addr + "/team/app:1"}); err != nil {
			b.Error(err)
		}
	})
}

// Benchmark_ResolveCached resolves a cached reference while another registry, to which eight more
// clients send requests, hangs.
func Benchmark_ResolveCached(b *testing.B) {
	reg := registrytest.Start(b, registrytest.Options{})
	reg.Push(b, "team/app:1", registrytest.RandomImage(b, 1, 1<<10))
	hung := registrytest.NewHandlerProxy(b, http.NotFoundHandler())
	hung.Hang(func(*http.Request) bool { return true }, -1)
	ref := reg.Addr + "/team/app:1"
	n := harness.Start(b, reg.Addr, harness.Config{"refCache": map[string]any{"refs": []string{ref}}})
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
				_, _ = n.Gitpod.ResolveBaseImage(ctx, &builder.ResolveBaseImageRequest{Ref: fmt.Sprint(hung.Addr, "/team/app:", i)}) // the registry hangs
			}
		})
	}
	atClients(b, func(b *testing.B, _ int) {
		if _, err := n.Gitpod.ResolveBaseImage(context.Background(), &builder.ResolveBaseImageRequest{Ref: ref}); err != nil {
			b.Error(err)
		}
	})
}

func Benchmark_ExistingImage(b *testing.B) {
	reg := registrytest.Start(b, registrytest.Options{})
	reg.Push(b, "team/app:1", registrytest.RandomImage(b, 1, 1<<10))
	n := harness.Start(b, reg.Addr, nil)
	req := &builder.BuildRequest{Source: harness.GitpodRef(reg.Addr + "/team/app:1")}
	if _, err := n.BuildGitpod(b.Context(), req); err != nil {
		b.Fatal(err)
	}
	atClients(b, func(b *testing.B, _ int) {
		if _, err := n.BuildGitpod(context.Background(), req); err != nil {
			b.Error(err)
		}
	})
}

// Benchmark_InstantBuild builds images that are copied by mounts, and measures from the request to
// the terminal message. The images are pushed before the measurement.
func Benchmark_InstantBuild(b *testing.B) {
	reg := registrytest.Start(b, registrytest.Options{})
	base := registrytest.RandomImage(b, 1, 1<<10)
	n := harness.Start(b, reg.Addr, harness.Config{"builds": map[string]any{"runningPerNode": 128}})
	made := 0
	for _, clients := range []int{1, 32, 128} {
		b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
			b.StopTimer()
			first := made
			for range b.N {
				img, err := mutate.Config(base, v1.Config{Labels: map[string]string{"n": strconv.Itoa(made)}})
				if err != nil {
					b.Fatal(err)
				}
				tag, err := name.NewTag(fmt.Sprintf("%s/many/app:%d", reg.Addr, made))
				if err != nil {
					b.Fatal(err)
				}
				if err := remote.Write(tag, img); err != nil {
					b.Fatal(err)
				}
				made++
			}
			b.StartTimer()
			runClients(b, clients, func(b *testing.B, i int) {
				ref := fmt.Sprintf("%s/many/app:%d", reg.Addr, first+i)
				all, err := n.BuildGitpod(context.Background(), &builder.BuildRequest{Source: harness.GitpodRef(ref)})
				if err != nil || all[len(all)-1].Status != builder.BuildStatus_done_success {
					b.Error(err, all)
				}
			})
		})
	}
}

// Benchmark_LogFanOut lets readers follow one log in the store, written as fast as the disk allows.
func Benchmark_LogFanOut(b *testing.B) {
	for _, readers := range []int{1, 10, 100} {
		b.Run(fmt.Sprint("readers=", readers), func(b *testing.B) {
			s, err := logs.Open(logs.Options{Dir: b.TempDir(), MaxBytes: 1 << 40})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			key := logs.Key{Build: "fan-out", Attempt: 1}
			w, err := s.Create(key, 1, nil, false)
			if err != nil {
				b.Fatal(err)
			}
			var wg sync.WaitGroup
			for range readers {
				r, err := s.Reader(b.Context(), key, 0)
				if err != nil {
					b.Fatal(err)
				}
				wg.Go(func() {
					defer r.Close()
					for {
						if _, _, err := r.Next(context.Background()); err != nil {
							return
						}
					}
				})
			}
			chunk := []byte(strings.Repeat("#7 a line of output as builds write it, of some length\n", 1200))
			b.SetBytes(int64(len(chunk)))
			for b.Loop() {
				if _, err := w.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
			length, _, err := w.Seal(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			if err := s.Complete(key, length); err != nil { // ends the readers
				b.Fatal(err)
			}
			wg.Wait()
			b.ReportMetric(float64(readers)*float64(len(chunk))*float64(b.N)/b.Elapsed().Seconds()/1e6, "MB/s-to-readers")
		})
	}
}

func percentile(times []time.Duration, p float64) time.Duration {
	sorted := slices.Clone(times)
	slices.Sort(sorted)
	return sorted[int(float64(len(sorted)-1)*p)]
}
