//go:build faults

package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/netns"
)

// benchLog is the length of a log in bytes, 64 MiB of lines.
const benchLog = 64 << 20

// Benchmark_Logs_Readers measures a log with a copy on a second node. A workload on the owner
// writes the log, and readers follow it through three nodes, each on a host of its own. For
// comparison it streams the same bytes by plain gRPC from one process to as many readers.
func Benchmark_Logs_Readers(b *testing.B) {
	file := filepath.Join(b.TempDir(), "log")
	line := []byte(strings.Repeat("0123456789abcdef", 6) + "end\n")
	if err := os.WriteFile(file, bytes.Repeat(line, benchLog/len(line)), 0o600); err != nil {
		b.Fatal(err)
	}
	size := int64(benchLog / len(line) * len(line))
	for _, readers := range []int{1, 10, 100} {
		b.Run(fmt.Sprintf("bare/readers=%d", readers), func(b *testing.B) { bareStreams(b, readers, size) })
		b.Run(fmt.Sprintf("nodes/readers=%d", readers), func(b *testing.B) { nodeStreams(b, readers, file, size) })
	}
}

func nodeStreams(b *testing.B, readers int, file string, size int64) {
	w := &logCluster{t: b, dir: b.TempDir()}
	b.Setenv("IMAGE_BUILDER_TEST_RUNTIME", w.dir)
	b.Setenv("IMAGE_BUILDER_TEST_SCRIPT", "until [ -e "+file+".go ]; do sleep 0.01; done; cat "+file)
	b.Setenv("IMAGE_BUILDER_TEST_SURVIVES", "")
	a := netns.StartCluster(b, 3)
	w.Cluster, w.base = a.Cluster, a.Refs[0]
	w.levelRaised()
	sent := func(name string) float64 {
		raw, err := exec.Command("ip", "netns", "exec", a.Host(w.node(name)).Name, "cat", "/sys/class/net/eth0/statistics/tx_bytes").Output()
		if err != nil {
			b.Fatal(err)
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(string(raw)), 64)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	var cpu, net float64
	b.SetBytes(size * int64(readers))
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		build := w.build(b.Context())
		owner := build.Attempts[0].Owner
		all, wait := w.startReaders(b.Context(), build.Id, readers)
		pid := w.node(owner).Pid()
		cpu0, net0 := harness.CPUSeconds(b, pid), sent(owner)
		b.StartTimer()
		if err := os.WriteFile(file+".go", nil, 0o600); err != nil {
			b.Fatal(err)
		}
		w.awaitBytes(all, size)
		b.StopTimer()
		cpu += harness.CPUSeconds(b, pid) - cpu0
		net += sent(owner) - net0
		wait()
		if err := os.Remove(file + ".go"); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(cpu/float64(b.N), "owner-cpu-s/op")
	b.ReportMetric(cpu/float64(b.N*readers), "owner-cpu-s/reader")
	b.ReportMetric(net/float64(b.N)/float64(size), "owner-sent/log")
	b.ReportMetric(net/float64(b.N)/float64(size)/float64(readers), "owner-sent/log/reader")
}

// bareServer streams size bytes in messages like those of the nodes.
type bareServer struct {
	imagebuilderv1.UnimplementedImageBuilderServer
	size int64
}

func (s bareServer) BuildLogs(_ *imagebuilderv1.BuildLogsRequest, to grpc.ServerStreamingServer[imagebuilderv1.BuildLogsResponse]) error {
	chunk := bytes.Repeat([]byte("0123456789abcde\n"), 4<<10)
	for at := int64(0); at < s.size; at += int64(len(chunk)) {
		if err := to.Send(&imagebuilderv1.BuildLogsResponse{Offset: at, Content: chunk[:min(int64(len(chunk)), s.size-at)]}); err != nil {
			return err
		}
	}
	return nil
}

func bareStreams(b *testing.B, readers int, size int64) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := grpc.NewServer()
	imagebuilderv1.RegisterImageBuilderServer(s, bareServer{size: size})
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	defer serving.Wait()
	defer s.Stop()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	client := imagebuilderv1.NewImageBuilderClient(conn)
	b.SetBytes(size * int64(readers))
	for b.Loop() {
		var all sync.WaitGroup
		var got atomic.Int64
		for range readers {
			all.Go(func() {
				ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
				defer cancel()
				st, err := client.BuildLogs(ctx, &imagebuilderv1.BuildLogsRequest{})
				for err == nil {
					var m *imagebuilderv1.BuildLogsResponse
					if m, err = st.Recv(); err == nil {
						got.Add(int64(len(m.Content)))
					}
				}
				if !errors.Is(err, io.EOF) {
					b.Error(err)
				}
			})
		}
		all.Wait()
		if got.Load() != size*int64(readers) {
			b.Fatalf("got %d bytes", got.Load())
		}
	}
}
