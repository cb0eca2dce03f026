package scheduler

import (
	"bytes"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// Benchmark_Busy measures the leader's work in a state of 10,000 running, 20,000 queued and 100,000
// ended builds: one decision that starts nothing, one look for expired logs, and the commands that
// change all running builds at once.
func Benchmark_Busy(b *testing.B) {
	w := schedulertest.NewBusyWorld(b, 100_000, 10_000, 20_000)
	b.Run("decide", func(b *testing.B) {
		r := rules{
			alive:     func(*buildsv1.Node) bool { return true },
			runtime:   func(*imagebuilderv1.Source) string { return "none" },
			adoptable: func(string) bool { return false }, replicas: 2,
		}
		for b.Loop() {
			if d := decide(w.Store.View(), w.Now, r); len(d.assign) != 0 {
				b.Fatal("a build starts")
			}
		}
	})
	for name, age := range map[string]time.Duration{"expired/none": 1000 * time.Hour, "expired/all": time.Hour} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				Retention{Age: age}.expired(w.Store.View(), w.Now)
			}
		})
	}
	snapshot := func(b *testing.B, w *schedulertest.World) []byte {
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
	// apply measures one command; it changes the state, so each run begins with a restored one.
	apply := func(b *testing.B, raw []byte, cmd *buildsv1.NodeLost, next *buildsv1.NodeStarted) {
		for b.Loop() {
			b.StopTimer()
			x := &schedulertest.World{T: b, Store: builds.NewStore(), Index: w.Index, Now: w.Now}
			if err := x.Store.Restore(bytes.NewReader(raw)); err != nil {
				b.Fatal(err)
			}
			if next == nil {
				b.StartTimer()
				x.Apply(cmd)
				continue
			}
			x.Apply(cmd)
			b.StartTimer()
			x.Apply(next)
		}
	}
	lost := &buildsv1.NodeLost{Name: "n0", StoreId: "s", BootId: "b", Reason: "benchmark"}
	b.Run("NodeLost", func(b *testing.B) { apply(b, snapshot(b, w), lost, nil) })
	b.Run("NodeStarted", func(b *testing.B) {
		apply(b, snapshot(b, w), lost, &buildsv1.NodeStarted{Name: "n0", StoreId: "s", BootId: "b2", Capacity: 100, Runtimes: []string{"copy"}})
	})
}
