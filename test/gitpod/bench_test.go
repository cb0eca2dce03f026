package gitpod

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// atReplicas runs f with one node and with three. Their workspaces run until the benchmark ends.
func atReplicas(b *testing.B, over harness.Config, prepare func(b *testing.B, in *install), f func(b *testing.B, in *install, c *harness.Cluster)) {
	for _, replicas := range []int{3, 1} {
		b.Run(fmt.Sprint("replicas=", replicas), func(b *testing.B) {
			in := newInstall(b)
			in.work = func(string, *wsmanagertest.Workspace) { in.await(nil) }
			if prepare != nil {
				prepare(b, in)
			}
			f(b, in, in.cluster(replicas, merged(over, harness.Config{"log": map[string]any{"level": "warn"}})))
		})
	}
}

func merged(a, b harness.Config) harness.Config {
	out := harness.Config{}
	for _, m := range []harness.Config{a, b} {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

// beside calls both functions in turn, so that other load on the machine affects both, and reports
// the medians and their ratio.
func beside(b *testing.B, ours, bare func(i int)) {
	var times [2][]time.Duration
	i := 0
	for b.Loop() {
		for k, f := range []func(int){ours, bare} {
			began := time.Now()
			f(i)
			times[k] = append(times[k], time.Since(began))
		}
		i++
	}
	for k := range times {
		slices.Sort(times[k])
	}
	p := func(k int, at float64) float64 {
		return times[k][int(float64(len(times[k])-1)*at)].Seconds() * 1000
	}
	b.ReportMetric(p(0, .5), "p50-ms")
	b.ReportMetric(p(0, .99), "p99-ms")
	b.ReportMetric(p(1, .5), "bare-p50-ms")
	b.ReportMetric(p(0, .5)/p(1, .5), "times-bare")
	b.ReportMetric(p(0, .1)/p(1, .1), "times-bare-p10") // with little other load
	b.ReportMetric(0, "ns/op")
}

// Benchmark_Gitpod_Existing requests builds of an image that exists.
func Benchmark_Gitpod_Existing(b *testing.B) {
	atReplicas(b, nil, nil, func(b *testing.B, in *install, c *harness.Cluster) {
		in.reg.Push(b, "team/app:1", in.img)
		req := &builder.BuildRequest{Source: harness.GitpodRef(in.reg.Addr + "/team/app:1")}
		all, err := c.Nodes[0].BuildGitpod(b.Context(), req)
		if err := success(all, err); err != nil {
			b.Fatal(err)
		}
		plain := bare(b, all[len(all)-1])
		for _, clients := range []int{1, 32, 128} {
			b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
				ours := rate(clients, b.N, func(i int) {
					if m := first(b, c.Nodes[i%len(c.Nodes)].Gitpod, req); m.GetStatus() != builder.BuildStatus_done_success {
						b.Errorf("got %v", m)
					}
				})
				b.StopTimer()
				b.ReportMetric(ours, "builds/s")
				b.ReportMetric(rate(clients, b.N, func(int) { first(b, plain, req) }), "bare/s")
			})
		}
	})
}

// Benchmark_Gitpod_New requests builds of images that do not exist, up to the first message, which
// means that the build is committed. No build ends, so all stay in the queue. Each sends two
// requests to the registry. The instant registry shows the cost of the service alone.
func Benchmark_Gitpod_New(b *testing.B) {
	for name, registry := range map[string]func(b *testing.B, in *install){
		"docker-registry":  func(*testing.B, *install) {},
		"instant-registry": func(b *testing.B, in *install) { instantRegistry(b, in) },
	} {
		b.Run(name, func(b *testing.B) { benchmarkNew(b, registry) })
	}
}

func benchmarkNew(b *testing.B, registry func(b *testing.B, in *install)) {
	atReplicas(b, nil, registry, func(b *testing.B, _ *install, c *harness.Cluster) {
		made := 0
		plain := bare(b, first(b, c.Nodes[0].Gitpod, dockerfile(made)))
		for _, clients := range []int{1, 32, 128} {
			b.Run(fmt.Sprint("clients=", clients), func(b *testing.B) {
				from, before := made, processor(b, c)
				made += b.N
				ours := rate(clients, b.N, func(i int) {
					if m := first(b, c.Nodes[i%len(c.Nodes)].Gitpod, dockerfile(from+i)); m.GetStatus() != builder.BuildStatus_running {
						b.Errorf("got %v", m)
					}
				})
				b.StopTimer()
				b.ReportMetric(ours, "builds/s")
				b.ReportMetric((processor(b, c)-before).Seconds()*1000/float64(b.N), "cpu-ms/build")
				b.ReportMetric(rate(clients, b.N, func(i int) { first(b, plain, dockerfile(i)) }), "bare/s")
				b.ReportMetric(0, "ns/op")
			})
		}
	})
}

// processor returns the processor time of all nodes so far.
func processor(b *testing.B, c *harness.Cluster) (sum time.Duration) {
	b.Helper()
	const tick = time.Second / 100
	for _, n := range c.Nodes {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n.Pid()))
		if err != nil {
			b.Fatal(err)
		}
		_, after, _ := strings.Cut(string(raw), ") ")
		for _, f := range strings.Fields(after)[11:13] { // utime, stime
			ticks, err := strconv.Atoi(f)
			if err != nil {
				b.Fatal(err)
			}
			sum += time.Duration(ticks) * tick
		}
	}
	return sum
}

// Benchmark_Gitpod_Running lists running builds, and reports the cost of 10,000 of them for a node.
// For each, the node follows the log of its workspace. A single node runs 9,000 of them, and the
// others are queued: a build needs two descriptors, for its log and for its workspace, and the
// limit of the machine may be 20,000 for a process.
func Benchmark_Gitpod_Running(b *testing.B) {
	const perNode = 9000
	over := harness.Config{"builds": map[string]any{"runningPerNode": perNode}}
	atReplicas(b, over, nil, func(b *testing.B, in *install, c *harness.Cluster) {
		var before []int64
		for _, n := range c.Nodes {
			before = append(before, resident(b, n.Pid()))
		}
		made := 0
		for _, running := range []int{10, 1000, 10000} {
			from := made
			rate(32, running-made, func(i int) { first(b, c.Nodes[i%len(c.Nodes)].Gitpod, dockerfile(from+i)) })
			made = running
			testkit.Eventually(b, 5*time.Minute, "all builds run", func() bool {
				run := min(running, perNode*len(c.Nodes))
				return sum(b, c, "image_builder_attempts_running") == float64(run) && in.sup.Listening() == run
			})
			b.Run(fmt.Sprint("running=", running), func(b *testing.B) {
				list := func(client builder.ImageBuilderClient) *builder.ListBuildsResponse {
					res, err := client.ListBuilds(b.Context(), &builder.ListBuildsRequest{})
					if err != nil {
						b.Fatal(err)
					}
					return res
				}
				res := list(c.Nodes[0].Gitpod)
				if len(res.Builds) != running {
					b.Errorf("%d builds are listed", len(res.Builds))
				}
				plain := bare(b, res)
				b.ReportMetric(float64(proto.Size(res))/1024, "KiB")
				beside(b, func(i int) { list(c.Nodes[i%len(c.Nodes)].Gitpod) }, func(int) { list(plain) })
			})
		}
		b.Run("cost", func(b *testing.B) {
			for b.Loop() {
				_ = resident(b, c.Nodes[0].Pid())
			}
			for i, n := range c.Nodes {
				b.ReportMetric(float64(resident(b, n.Pid())-before[i])/(1<<20), n.Name+"-MiB")
				fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.Pid()))
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(fds)), n.Name+"-descriptors")
			}
			b.ReportMetric(0, "ns/op")
		})
	})
}

// resident returns the resident memory of a process, in bytes.
func resident(t testing.TB, pid int) int64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.ParseInt(strings.Fields(string(raw))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// The log of Benchmark_Gitpod_Logs: the number of pieces that a workspace writes, and the number of
// pieces that it may be ahead of its fastest reader.
const (
	logPieces = 256
	logAhead  = 32
)

var logPiece = []byte(strings.Repeat("#7 a line of output as builds write it, of some length\n", 1200))

// Benchmark_Gitpod_Logs measures readers that follow the log of a build while its workspace writes
// it, and readers that then read the whole log of the running build. One more reader receives
// nothing.
func Benchmark_Gitpod_Logs(b *testing.B) {
	atReplicas(b, nil, nil, func(b *testing.B, in *install, c *harness.Cluster) {
		var ahead atomic.Pointer[chan struct{}]
		in.work = func(_ string, ws *wsmanagertest.Workspace) {
			tokens := *ahead.Load()
			for range logPieces {
				in.await(tokens)
				_, _ = ws.Write(logPiece)
			}
			in.await(nil)
		}
		length := logPieces * len(logPiece)
		nodes := func(i int) builder.ImageBuilderClient { return c.Nodes[i%len(c.Nodes)].Gitpod }
		for which, readers := range []int{1, 10, 100} {
			tokens := make(chan struct{}, logPieces+logAhead)
			ahead.Store(&tokens)
			id := first(b, c.Nodes[0].Gitpod, dockerfile(which)).GetInfo().GetBuildId()
			var most atomic.Int64
			began := time.Now()
			go func() {
				for range logAhead {
					tokens <- struct{}{}
				}
			}()
			fanOut(b, nodes, id, readers, length, func(n int) {
				// Allow one more piece for each that the fastest reader has received.
				for at := most.Load(); int64(n/len(logPiece)) > at; at = most.Load() {
					if most.CompareAndSwap(at, at+1) {
						tokens <- struct{}{}
					}
				}
			})
			live := float64(readers) * float64(length) / 1e6 / time.Since(began).Seconds()
			plain := bare(b, messages(b, c.Nodes[0].Gitpod, id, length)...)
			b.Run(fmt.Sprint("readers=", readers), func(b *testing.B) {
				var spent [2]time.Duration
				rounds := 0
				for b.Loop() {
					for k, client := range []func(int) builder.ImageBuilderClient{nodes, func(int) builder.ImageBuilderClient { return plain }} {
						spent[k] += fanOut(b, client, id, readers, length, func(int) {})
					}
					rounds++
				}
				mb := float64(rounds) * float64(readers) * float64(length) / 1e6
				b.ReportMetric(live, "live-MB/s")
				b.ReportMetric(mb/spent[0].Seconds(), "MB/s")
				b.ReportMetric(mb/spent[1].Seconds(), "bare-MB/s")
				b.ReportMetric(spent[1].Seconds()/spent[0].Seconds(), "of-bare")
				b.ReportMetric(0, "ns/op")
			})
		}
	})
}

// messages returns the messages of a log.
func messages(b *testing.B, c builder.ImageBuilderClient, id string, length int) (all []proto.Message) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	stream, err := c.Logs(ctx, &builder.LogsRequest{BuildId: id})
	for n := 0; err == nil && n < length; {
		var m *builder.LogsResponse
		if m, err = stream.Recv(); err == nil {
			all = append(all, m)
			n += len(m.Content)
		}
	}
	if err != nil {
		b.Fatal(err)
	}
	return all
}

// fanOut returns the time that readers need for a log of length bytes, beside a reader that
// receives nothing. Each calls at with the number of bytes that it has received.
func fanOut(b *testing.B, client func(i int) builder.ImageBuilderClient, id string, readers, length int, at func(n int)) time.Duration {
	b.Helper()
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	began := time.Now()
	stuck, err := client(0).Logs(ctx, &builder.LogsRequest{BuildId: id})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := stuck.Recv(); err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			stream, err := client(i).Logs(ctx, &builder.LogsRequest{BuildId: id})
			for n := 0; err == nil && n < length; at(n) {
				var m *builder.LogsResponse
				m, err = stream.Recv()
				n += len(m.GetContent())
			}
			if err != nil {
				b.Errorf("a reader: %v", err)
			}
		})
	}
	wg.Wait()
	return time.Since(began)
}
