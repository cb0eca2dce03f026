package owner

import (
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// Benchmark_RepairNothing measures one look for lost copies of logs in a state of 10,000 running,
// 20,000 queued and 100,000 ended builds. No copy is lost.
func Benchmark_RepairNothing(b *testing.B) {
	w := schedulertest.NewBusyWorld(b, 100_000, 10_000, 20_000)
	o := New(Options{Node: "n0", StoreID: "s", Store: w.Store, RepairAfter: time.Hour, Logs: nullLogs{}})
	for b.Loop() {
		if o.repairAll(b.Context()) {
			b.Fatal("a log is repaired")
		}
	}
}
