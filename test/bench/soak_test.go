package bench

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/time/rate"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
)

// soak is a cluster under a steady load of builds that end at once.
type soak struct {
	*harness.Cluster
	t    testing.TB
	refs []string

	mu   sync.Mutex
	took []time.Duration // until builds were acknowledged, since the last sample
	done int
	fail map[string]int
}

// Benchmark_Soak requests 50 builds a second, and prints the resource usage of the nodes each
// minute. The figures in the documentation are measured with SOAK=1h. The history and the request
// ids reach their limits after ten minutes.
func Benchmark_Soak(b *testing.B) {
	length := 30 * time.Second
	if s := os.Getenv("SOAK"); s != "" {
		var err error
		if length, err = time.ParseDuration(s); err != nil {
			b.Fatal(err)
		}
	}
	s := &soak{t: b, fail: map[string]int{}}
	s.Cluster, s.refs = harness.StartClusterWithImages(b, 3, 200, harness.Config{
		"requestIds": map[string]any{"age": "10m"},
		"history":    map[string]any{"total": 10_000, "perRequester": 10_000},
		"log":        map[string]any{"level": "warn"},
	})
	ctx, cancel := context.WithTimeout(b.Context(), length)
	defer cancel()
	var clients sync.WaitGroup
	limit := rate.NewLimiter(50, 5)
	for i := range 64 {
		clients.Go(func() {
			for limit.Wait(ctx) == nil {
				s.one(b.Context(), s.Nodes[i%len(s.Nodes)])
			}
		})
	}
	fmt.Println("minute builds  p50    p99    | per node: MiB of memory, descriptors, goroutines, MiB of data, log entries, history")
	tick := time.NewTicker(min(time.Minute, length/3))
	defer tick.Stop()
	for minute := 1; ; minute++ {
		select {
		case <-ctx.Done():
			clients.Wait()
			if len(s.fail) > 0 {
				b.Errorf("builds failed: %v", s.fail)
			}
			return
		case <-tick.C:
			fmt.Println(s.sample(minute))
		}
	}
}

// one requests a build and waits for its end.
func (s *soak) one(ctx context.Context, n *harness.Node) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	begin := time.Now()
	res, err := n.Native.BuildImage(ctx, &imagebuilderv1.BuildImageRequest{
		RequestId: uuid.NewString(), Source: harness.RefSource(s.refs[rand.IntN(len(s.refs))]), Force: true, Requester: fmt.Sprintf("r%d", rand.IntN(8)),
	})
	took := time.Since(begin)
	var end *imagebuilderv1.BuildStatusResponse
	if err == nil {
		end, err = n.Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{Build: &imagebuilderv1.BuildStatusRequest_Id{Id: res.Build.Id}, WaitFor: imagebuilderv1.Phase_PHASE_SUCCEEDED})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.took = append(s.took, took)
	s.done++
	switch {
	case err != nil:
		s.fail[err.Error()]++
	case end.Build.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED:
		s.fail[end.Build.Message]++
	}
}

var soakMetrics = regexp.MustCompile(`(?m)^(go_goroutines|process_open_fds|image_builder_builds\{phase="ended"\}|image_builder_applied_index) ([0-9.e+]+)$`)

// sample returns one line of the report.
func (s *soak) sample(minute int) string {
	s.mu.Lock()
	took, done := s.took, s.done
	s.took = nil
	s.mu.Unlock()
	slices.Sort(took)
	at := func(q float64) time.Duration {
		if len(took) == 0 {
			return 0
		}
		return took[int(q*float64(len(took)-1))].Round(100 * time.Microsecond)
	}
	var line strings.Builder
	fmt.Fprintf(&line, "%4d %8d %7s %7s", minute, done, at(0.5), at(0.99))
	for _, n := range s.Nodes {
		body, _ := n.Get("http://" + n.Metrics + "/metrics")
		v := map[string]string{}
		for _, m := range soakMetrics.FindAllStringSubmatch(body, -1) {
			f, _ := strconv.ParseFloat(m[2], 64) // the expression matches numbers only
			v[m[1]] = strconv.FormatFloat(f, 'f', 0, 64)
		}
		fmt.Fprintf(&line, " | %3d %s %s %d %s %s", harness.RSS(s.t, n.Pid())>>20, v["process_open_fds"], v["go_goroutines"], treeMiB(filepath.Join(n.Dir, "data")),
			v["image_builder_applied_index"], v[`image_builder_builds{phase="ended"}`])
	}
	return line.String()
}

// treeMiB returns the size of the files below a folder.
func treeMiB(dir string) (mib int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error { // files come and go
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil {
				mib += info.Size()
			}
		}
		return nil
	})
	return mib >> 20
}
