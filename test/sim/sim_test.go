// Package sim runs clusters of nodes (package node) in one process under simulated time. Network,
// disks, clocks, registries and workloads are simulated and fail at random; all other code is that
// of production. Clients record their calls, and the history is checked afterwards: reads are
// linearizable, acknowledged builds end, and logs are complete and never change.
//
// A run is determined by its seed only in part, because goroutines are scheduled by the runtime. So
// a seed that has failed may pass when it is repeated.
package sim

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/test/testkit"
	"github.com/image-builder-ha/image-builder/verify/history"
)

var (
	seedFlag    = flag.Uint64("sim.seed", 0, "run only this seed")
	minutesFlag = flag.Int("sim.minutes", 6, "simulated minutes of each run")
	runsFlag    = flag.Int("sim.runs", defaultRuns(), "number of seeds to run; the race detector makes a run 20 times slower")
	verboseFlag = flag.Bool("sim.v", false, "print faults and the logs of the nodes")
)

func defaultRuns() int {
	if testkit.Race {
		return 2
	}
	return 8
}

// reached are the states that all simulations of this process have reached.
var reached coverage

// simulate runs one seed and returns the history of its clients. It reports errors of logs, pods
// and builds to t.
func simulate(t testing.TB, seed uint64, nodes int, minutes int) (h history.History) {
	w := newWorld(t, seed, nodes)
	for _, n := range w.nodes {
		n.start()
	}
	ctx, stop := context.WithTimeout(context.Background(), time.Duration(minutes)*time.Minute)
	defer stop()
	wait(ctx, 5*time.Second)
	var all sync.WaitGroup
	all.Go(func() { w.nemesis(ctx) })
	for i := range 6 {
		all.Go(func() { w.client(ctx, fmt.Sprintf("c%d", i)) })
	}
	for range 3 {
		all.Go(func() { w.reader(ctx) })
	}
	all.Wait()
	w.awaitBuildsEnded(context.Background())
	if err := w.checkLogs(context.Background()); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
	if err := w.checkPods(context.Background()); err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
	w.checkStates()
	for _, n := range w.nodes {
		n.crash()
	}
	wait(context.Background(), 30*time.Second) // for the last calls to end
	if t, ok := t.(*testing.T); ok {           // not for a mutant
		reached.add(t.Name(), w.reached)
	}
	return w.rec.History()
}

// expectedStates are states that even a few simulations reach. If one is missing, the random faults
// no longer test what they are made for.
var expectedStates = []string{
	replaced,
	"a linearizable list was read",
	"an attempt got the secrets of its build",
	"a node is lost: its attempts are ended",
	tookSnapshot,
	comparedStates,
	"a reader continued at another node",
	"a workload was adopted",
	"a complete log was copied anew",
	"attempt has another owner, stopped it",
	"cannot commit the end of an attempt",
	"clearing log suffix", // removes entries of a deposed leader
	"failed to contact quorum of nodes, stepping down",
	"gave up a damaged copy of a log",
	"gives up leadership",
	"leaves a workload that outlives this node",
	"stopped a workload without an attempt",
	"the copies of a log changed",
	"the leader's process has ended: begins an election",
}

// Test_Simulation runs -sim.runs seeds of -sim.minutes simulated minutes each, with three or five
// nodes. With SIM_RANDOM in the environment the seeds are random. A history that fails is saved.
func Test_Simulation(t *testing.T) {
	begin := time.Now()
	var simulated, calls atomic.Int64
	t.Cleanup(func() {
		real := time.Since(begin)
		t.Logf("%d simulated minutes in %s: %.0f a minute; %d calls", simulated.Load(), real.Round(time.Millisecond), float64(simulated.Load())/real.Minutes(), calls.Load())
		t.Logf("states reached, and how often:\n%s", reached.String())
		if missing := reached.missing(expectedStates); simulated.Load() >= 48 && len(missing) > 0 {
			t.Errorf("no simulation reached: %s", strings.Join(missing, "; "))
		}
	})
	for i := range *runsFlag {
		seed := uint64(i + 1)
		if *seedFlag != 0 {
			seed = *seedFlag
		} else if os.Getenv("SIM_RANDOM") != "" {
			seed = rand.Uint64N(1 << 40)
		}
		nodes := 3
		if seed%4 == 1 {
			nodes = 5
		}
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			var h history.History
			synctest.Test(t, func(t *testing.T) { h = simulate(t, seed, nodes, *minutesFlag) })
			calls.Add(int64(len(h)))
			simulated.Add(int64(*minutesFlag))
			if err := history.Check(h); err != nil {
				path := filepath.Join(os.TempDir(), fmt.Sprintf("history-%d.jsonl", seed))
				t.Errorf("seed %d of %d nodes (again: go test ./test/sim -sim.seed %d; history in %s): %v", seed, nodes, seed, path, errors.Join(err, history.Save(path, h)))
			}
		})
		if *seedFlag != 0 {
			break
		}
	}
}
