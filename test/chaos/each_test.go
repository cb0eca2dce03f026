//go:build faults

package chaos

import (
	"bytes"
	"flag"
	"fmt"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/verify"
)

var eachFlag = flag.Duration("chaos.each", 6*time.Second, "the duration of the load for each fault in Benchmark_EachFault")

// Benchmark_EachFault injects one fault after the other into a cluster, on the leader and on
// another node. The cluster must keep every promise under each. The benchmark prints a table:
//
//	go test -tags faults -run '^$' -bench EachFault -benchtime 1x -timeout 60m ./test/chaos
func Benchmark_EachFault(t *testing.B) {
	w := newWorld(t, *nodesFlag, *profileFlag)
	order := make([]int, *nodesFlag)
	for i := range order {
		order[i] = i
	}
	var table bytes.Buffer
	for _, fault := range possible(*profileFlag) {
		t.Run(fault, func(t *testing.B) {
			d := *eachFlag / 10
			st := Step{After: d, Lasts: 3 * d, Fault: fault, Leader: true, Order: order, Amount: 0.5}
			s := Schedule{Nodes: *nodesFlag, Steps: []Step{st, st}}
			s.Steps[1].Leader = false
			r := w.run(t, s, w.options(*eachFlag, *rateFlag, *profileFlag), "each-"+fault)
			if len(r.Faults) < len(s.Steps) {
				t.Errorf("%d faults were injected, want %d", len(r.Faults), len(s.Steps))
			}
			verdict := "ok"
			if !r.OK {
				verdict = "**not ok**"
				var b bytes.Buffer
				if err := r.Text(&b); err != nil {
					t.Error(err)
				}
				t.Errorf("a promise was broken:\n%s", &b)
			}
			fmt.Fprintf(&table, "| `%s` | %d | %d | %d | %s | %s |\n", fault, r.Counts.Acknowledged, r.Writes.Failed, r.Counts.FurtherAttempts, during(r, fault), verdict)
		})
	}
	t.Logf("\n| fault | builds acknowledged | requests failed | further attempts | 50th, 99th percentile during it | verdict |\n|---|---|---|---|---|---|\n%s", &table)
}

// during formats the latency of build requests during a fault.
func during(r *verify.Report, fault string) string {
	for _, w := range r.Windows {
		if w.Name == "during "+fault {
			return fmt.Sprintf("%s, %s", w.P50.Round(time.Millisecond), w.P99.Round(10*time.Millisecond))
		}
	}
	return "no request"
}
