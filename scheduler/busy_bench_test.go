package scheduler

import (
	"bytes"
	"flag"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

var (
	busyLive   = flag.Int("busy.live", 10_000, "Benchmark_Busy: number of running builds")
	busyQueued = flag.Int("busy.queued", 50_000, "Benchmark_Busy: number of queued builds")
	busyEnded  = flag.Int("busy.ended", 1_000_000, "Benchmark_Busy: number of ended builds")
)

// Benchmark_Busy measures what the leader and Apply do in a large state: decisions after a change,
// batches of retention, the loss of a node that runs all builds, batches of overdue builds, and the
// restore of a snapshot. It reports the memory of the state.
func Benchmark_Busy(b *testing.B) {
	before := liveHeap()
	w := schedulertest.NewBusyWorld(b, *busyEnded, *busyLive, *busyQueued)
	memory := float64(liveHeap()-before) / (1 << 20)
	b.Run("memory", func(b *testing.B) {
		for b.Loop() {
			runtime.Gosched()
		}
		b.ReportMetric(memory, "MiB")
	})
	b.Run("decide", func(b *testing.B) { benchmarkDecide(b, w) })
	b.Run("list", func(b *testing.B) { benchmarkList(b, w, 100) })
	b.Run("filter", func(b *testing.B) { benchmarkList(b, w, 1000) })
	b.Run("retention", func(b *testing.B) { benchmarkRetention(b, w) })
	raw := snapshotOf(b, w)
	b.Run("restore", func(b *testing.B) {
		var took times
		for b.Loop() {
			c := startClock()
			if err := builds.NewStore().Restore(bytes.NewReader(raw)); err != nil {
				b.Fatal(err)
			}
			took = append(took, c.stop())
		}
		took.report(b)
		b.ReportMetric(float64(len(raw))/(1<<20), "MiB-of-snapshot")
	})
	lost := &buildsv1.NodeLost{Name: "n0", StoreId: "s", BootId: "b", Reason: "benchmark"}
	started := &buildsv1.NodeStarted{Name: "n0", StoreId: "s", BootId: "b2", Capacity: 100, Runtimes: []string{"copy"}}
	b.Run("NodeLost", func(b *testing.B) { benchmarkCommand(b, raw, w, lost) })
	b.Run("NodeStarted", func(b *testing.B) { benchmarkCommand(b, raw, w, started) })
	b.Run("overdue", func(b *testing.B) { benchmarkOverdue(b, raw, w) })
}

// liveHeap returns the bytes of live objects.
func liveHeap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// clock measures the processor time of a piece of work, with its part of the garbage collection. The
// wall clock shows the other work of the machine as well.
type clock struct{ began time.Duration }

func startClock() clock {
	runtime.LockOSThread()
	return clock{threadTime()}
}

func (c clock) stop() time.Duration {
	defer runtime.UnlockOSThread()
	return threadTime() - c.began
}

func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}

// times reports percentiles of processor times.
type times []time.Duration

func (t times) report(b *testing.B) {
	slices.Sort(t)
	b.ReportMetric(float64(t[len(t)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(t[len(t)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(t[len(t)-1].Microseconds())/1000, "max-ms")
}

// benchmarkDecide makes a change and measures the decision after it, by turns: a build ends, another
// one starts, a build is queued.
func benchmarkDecide(b *testing.B, w *schedulertest.World) {
	r := rules{
		alive:     func(n *buildsv1.Node) bool { return true },
		runtime:   func(*imagebuilderv1.Source) string { return "copy" },
		adoptable: func(string) bool { return false }, replicas: 2,
	}
	set := proto.CloneOf(w.Store.View().Settings())
	set.RunningTotal = uint32(*busyLive) // as many as run
	w.Apply(&buildsv1.PutSettings{Settings: set})
	var took times
	n := 0
	for b.Loop() {
		var first *buildsv1.Record
		w.Store.View().Live(func(q *buildsv1.Record) bool { first = q; return false })
		a := builds.LastAttempt(first.Build)
		w.Apply(&buildsv1.FinishAttempt{BuildId: first.Build.Id, Attempt: a.Number, Epoch: a.Epoch, Phase: builds.Failed, Blame: builds.BlameUser})
		c := startClock()
		d := decide(w.Store.View(), w.Now, r)
		took = append(took, c.stop())
		if len(d.assign) != 1 {
			b.Fatalf("%d builds start", len(d.assign))
		}
		w.Assign(d.assign...)
		c = startClock()
		d = decide(w.Store.View(), w.Now, r)
		took = append(took, c.stop())
		n++
		id := fmt.Sprintf("%08d-%d", n, w.Index)
		w.Apply(&buildsv1.CreateBuild{Id: id, Ref: "r:" + id, Requester: fmt.Sprintf("u%d", n%500), TimeoutNanos: int64(100_000 * time.Hour), Source: first.Build.Source})
		c = startClock()
		d = decide(w.Store.View(), w.Now, r)
		took = append(took, c.stop())
	}
	took.report(b)
}

// benchmarkList measures reads of n ended builds, as for one page.
func benchmarkList(b *testing.B, w *schedulertest.World, n int) {
	var newest string // of the ended builds
	w.Store.View().Descend("", func(r *buildsv1.Record) bool {
		newest = r.Build.Id
		return !builds.Terminal(r.Build.Phase)
	})
	var took times
	for b.Loop() {
		c := startClock()
		read := 0
		w.Store.View().Descend(newest, func(r *buildsv1.Record) bool {
			read++
			return read < n
		})
		took = append(took, c.stop())
	}
	took.report(b)
}

// benchmarkRetention measures one batch: the search for expired logs, and the command.
func benchmarkRetention(b *testing.B, w *schedulertest.World) {
	var took times
	for b.Loop() {
		c := startClock()
		ids := Retention{Age: time.Hour}.expired(w.Store.View(), w.Now)
		w.Apply(&buildsv1.ExpireLogs{BuildIds: ids})
		took = append(took, c.stop())
		if len(ids) == 0 {
			b.Fatal("no log is left")
		}
	}
	took.report(b)
}

// benchmarkCommand measures a command on a restored state, and each command that continues it.
func benchmarkCommand(b *testing.B, raw []byte, w *schedulertest.World, cmd proto.Message) {
	var took times
	for b.Loop() {
		b.StopTimer()
		x := restoredWorld(b, raw, w)
		b.StartTimer()
		for more := true; more; {
			c := startClock()
			more = x.Apply(cmd).More
			took = append(took, c.stop())
		}
	}
	took.report(b)
}

// benchmarkOverdue measures how long the commands of one decision hold up the next one when 4,096
// builds are past their deadline: the decision and the batch.
func benchmarkOverdue(b *testing.B, raw []byte, w *schedulertest.World) {
	r := rules{
		alive:     func(n *buildsv1.Node) bool { return true },
		runtime:   func(*imagebuilderv1.Source) string { return "copy" },
		adoptable: func(string) bool { return false }, replicas: 2,
	}
	var took times
	for b.Loop() {
		b.StopTimer()
		x := restoredWorld(b, raw, w)
		for range 4096 {
			x.CreateFor("overdue", time.Minute)
		}
		x.Now = x.Now.Add(time.Hour)
		b.StartTimer()
		for {
			c := startClock()
			d := decide(x.Store.View(), x.Now, r)
			if len(d.overdue) == 0 {
				break
			}
			x.Apply(&buildsv1.StopOverdue{BuildIds: d.overdue})
			took = append(took, c.stop())
		}
	}
	took.report(b)
}

func restoredWorld(b *testing.B, raw []byte, w *schedulertest.World) *schedulertest.World {
	x := &schedulertest.World{T: b, Store: builds.NewStore(), Index: w.Index, Now: w.Now}
	if err := x.Store.Restore(bytes.NewReader(raw)); err != nil {
		b.Fatal(err)
	}
	return x
}

func snapshotOf(b *testing.B, w *schedulertest.World) []byte {
	var raw bytes.Buffer
	s, err := w.Store.Snapshot()
	if err == nil {
		_, err = s.WriteTo(&raw)
	}
	if err != nil {
		b.Fatal(err)
	}
	return raw.Bytes()
}
