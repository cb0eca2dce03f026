package bench

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/raftlog"
	"github.com/image-builder-ha/image-builder/cluster/snapshot"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
	"github.com/image-builder-ha/image-builder/test/harness"
)

var (
	startEnded  = flag.Int("start.ended", 1_000_000, "Benchmark_Start: number of ended builds")
	startQueued = flag.Int("start.queued", 50_000, "Benchmark_Start: number of queued builds")
	startLive   = flag.Int("start.live", 10_000, "Benchmark_Start: number of running builds")
	startWatch  = flag.Duration("start.watch", time.Minute, "Benchmark_Start: how long to observe the node once it is ready")
	startLimit  = flag.String("start.limit", "650MiB", "Benchmark_Start: GOMEMLIMIT of the node, or off")
)

// Benchmark_Start starts a node whose newest snapshot has a large state. It reports how long the
// node takes until it is ready, and its greatest resident memory until then and while it is
// observed. The running builds of the state belong to nodes that are gone.
func Benchmark_Start(b *testing.B) {
	n := harness.Start(b, newHangingRegistry(b).Addr, harness.Config{
		"builds":  map[string]any{"runningPerNode": 1, "queuedPerRequester": 100_000},
		"history": map[string]any{"total": 2_000_000, "perRequester": 2_000_000, "maxAge": "1000000h"},
		"log":     map[string]any{"level": "info"},
	})
	n.Stop()
	w := schedulertest.NewBusyWorld(b, *startEnded, *startLive, *startQueued)
	state, err := w.Store.Snapshot()
	if err != nil {
		b.Fatal(err)
	}
	size := storeSnapshot(b, filepath.Join(n.Dir, "data", "raft"), w.Index, func(sink raft.SnapshotSink, raftIndex uint64) error {
		return snapshot.Write(sink, snapshot.Header{Index: w.Index, Offset: w.Index - raftIndex}, state)
	})
	w, state = nil, nil
	n.Env = append(n.Env, "GOMEMLIMIT="+*startLimit)
	for b.Loop() {
		begin := time.Now()
		n.Run()
		b.ReportMetric(time.Since(begin).Seconds(), "s-until-ready")
		b.ReportMetric(harness.CPUSeconds(b, n.Pid()), "s-of-processor")
		b.ReportMetric(peak(b, n.Pid()), "MiB-until-ready")
		time.Sleep(*startWatch) // the resident memory follows from work in the background
		b.ReportMetric(peak(b, n.Pid()), "MiB-peak")
		b.ReportMetric(float64(harness.RSS(b, n.Pid()))/(1<<20), "MiB")
		n.Stop()
	}
	b.ReportMetric(float64(size)/(1<<20), "MiB-of-snapshot")
	b.ReportMetric(0, "ns/op")
}

// storeSnapshot writes a snapshot that follows all entries in the log of a stopped node with one
// voter. It returns the size of the snapshot in bytes.
func storeSnapshot(b *testing.B, dir string, index uint64, write func(sink raft.SnapshotSink, raftIndex uint64) error) int64 {
	b.Helper()
	log, err := raftlog.Open(raftlog.Options{Dir: dir, SegmentBytes: 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	first, err := log.FirstIndex()
	if err != nil {
		b.Fatal(err)
	}
	last, err := log.LastIndex()
	if err != nil || last >= index {
		b.Fatalf("the log ends at %d, the state at %d: %v", last, index, err)
	}
	var entry raft.Log
	var voters raft.Configuration
	var votersIndex uint64
	for i := first; i <= last; i++ {
		if err := log.GetLog(i, &entry); err != nil {
			b.Fatal(err)
		}
		if entry.Type == raft.LogConfiguration {
			voters, votersIndex = raft.DecodeConfiguration(entry.Data), i
		}
	}
	if err := log.Close(); err != nil {
		b.Fatal(err)
	}
	snaps, err := raft.NewFileSnapshotStore(dir, 2, os.Stderr)
	if err != nil {
		b.Fatal(err)
	}
	_, encodes := raft.NewInmemTransport("") // the addresses of voters
	sink, err := snaps.Create(raft.SnapshotVersionMax, last, entry.Term, voters, votersIndex, encodes)
	if err != nil {
		b.Fatal(err)
	}
	if err := write(sink, last); err != nil {
		b.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		b.Fatal(err)
	}
	list, err := snaps.List()
	if err != nil || len(list) == 0 {
		b.Fatalf("there is no snapshot: %v", err)
	}
	return list[0].Size
}

// peak returns the greatest resident memory of a process so far, in MiB.
func peak(b *testing.B, pid int) float64 {
	b.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		b.Fatal(err)
	}
	for line := range bytes.Lines(raw) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			kib, err := strconv.ParseFloat(string(bytes.TrimSpace(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte("kB")))), 64)
			if err != nil {
				b.Fatal(err)
			}
			return kib / 1024
		}
	}
	b.Fatal("the kernel reports no greatest memory")
	return 0
}
