//go:build faults

package chaos

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/verify"
)

var (
	seedFlag     = flag.Uint64("chaos.seed", 0, "the seed of the schedule; 0: a random one")
	durationFlag = flag.Duration("chaos.duration", 2*time.Minute, "the length of the schedule")
	rateFlag     = flag.Float64("chaos.rate", 20, "builds a second")
	profileFlag  = flag.String("chaos.profile", verify.ProfileRef, "the profile of the load: instant, ref, dockerfile or mixed")
	nodesFlag    = flag.Int("chaos.nodes", 3, "number of nodes")
	faultsFlag   = flag.String("chaos.faults", "", "use only these faults, separated by commas")
	scheduleFlag = flag.String("chaos.schedule", "", "use the schedule in this file instead of a seed")
	shrinkFlag   = flag.Int("chaos.shrink", 0, "number of smaller schedules to try after a failure")
)

func TestMain(m *testing.M) {
	flag.Parse()
	code := m.Run()
	harness.RemoveBinary()
	os.Exit(code)
}

func schedule(t testing.TB) Schedule {
	t.Helper()
	if *scheduleFlag != "" {
		f, err := os.Open(*scheduleFlag)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s, err := LoadSchedule(f)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	faults := possible(*profileFlag)
	if *faultsFlag != "" {
		all := faults
		faults = strings.Split(*faultsFlag, ",")
		for _, f := range faults {
			if !slices.Contains(all, f) {
				t.Fatalf("fault %q is unknown, or has no effect on profile %s; known faults are %v", f, *profileFlag, all)
			}
		}
	}
	return NewSchedule(seed, *nodesFlag, *durationFlag, faults)
}

// campaign runs one schedule and returns the report.
func campaign(t testing.TB, s Schedule) *verify.Report {
	t.Helper()
	length := time.Second
	for _, st := range s.Steps {
		length += st.After + st.Lasts
	}
	w := newWorld(t, s.Nodes, *profileFlag)
	return w.run(t, s, w.options(length, *rateFlag, *profileFlag), fmt.Sprintf("seed-%d", s.Seed))
}

// run runs a schedule under load and returns the report of verify. It saves the report under name,
// and if a promise was broken also the events, the schedule and the logs of the nodes.
func (w *world) run(t testing.TB, s Schedule, o verify.Options, name string) *verify.Report {
	t.Helper()
	done := make(chan struct{})
	// On a busy machine the steps may be late. The end of the load ends the schedule, so that late
	// steps do not disturb the final checks.
	ctx, cancel := context.WithTimeout(t.Context(), o.Duration)
	defer cancel()
	go func() {
		defer close(done)
		w.follow(ctx, s, o.Faults)
	}()
	e, err := verify.Run(t.Context(), o)
	cancel()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	r := verify.NewReport(e)
	keep(t, name+".html", func(f *os.File) error { return r.HTML(f) })
	keep(t, name+".txt", func(f *os.File) error { return r.Text(f) })
	if !r.OK || t.Failed() {
		path := keep(t, name+".jsonl", func(f *os.File) error { return e.Save(f) })
		at := keep(t, name+".schedule", func(f *os.File) error { return s.Save(f) })
		t.Logf("the events are in %s, the schedule is in %s", path, at)
		for _, n := range w.Nodes {
			keep(t, name+"-"+n.Name+".log", func(f *os.File) error { _, err := f.WriteString(n.Log()); return err })
		}
	}
	return r
}

// Test_Chaos injects the faults of a schedule into a cluster, which must keep every promise.
func Test_Chaos(t *testing.T) {
	s := schedule(t)
	t.Logf("seed %d, %d nodes, %d faults (to repeat: go test -tags faults ./test/chaos -chaos.seed %d -chaos.duration %s)", s.Seed, s.Nodes, len(s.Steps), s.Seed, *durationFlag)
	r := campaign(t, s)
	var b bytes.Buffer
	if err := r.Text(&b); err != nil {
		t.Fatal(err)
	}
	t.Logf("seed %d:\n%s", s.Seed, &b)
	if r.OK {
		return
	}
	t.Errorf("seed %d: a promise was broken", s.Seed)
	if *shrinkFlag > 0 {
		small := Shrink(s, *shrinkFlag, func(c Schedule) (failed bool) {
			t.Run(fmt.Sprintf("%d-steps", len(c.Steps)), func(t *testing.T) { failed = !campaign(t, c).OK })
			return failed
		})
		t.Logf("the smallest schedule that fails has %d steps: %v", len(small.Steps), small.Steps)
		keep(t, fmt.Sprintf("seed-%d.small.schedule", s.Seed), func(f *os.File) error { return small.Save(f) })
	}
}

// Test_Schedule_IsDecidedByItsSeed: a seed determines the schedule, and Save and LoadSchedule keep
// it.
func Test_Schedule_IsDecidedByItsSeed(t *testing.T) {
	a, b := NewSchedule(7, 5, time.Hour, names()), NewSchedule(7, 5, time.Hour, names())
	var x, y bytes.Buffer
	if err := a.Save(&x); err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadSchedule(bytes.NewReader(x.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if err := loaded.Save(&y); err != nil || x.String() != y.String() {
		t.Errorf("the loaded schedule differs from the saved one (%v)", err)
	}
	if fmt.Sprint(a) != fmt.Sprint(b) || len(a.Steps) < 100 {
		t.Errorf("a seed gives two different schedules, or a short one: %d and %d steps", len(a.Steps), len(b.Steps))
	}
}

// Test_Shrink_FindsTheStepsThatMatter: Shrink leaves the two steps of a long schedule that make it
// fail.
func Test_Shrink_FindsTheStepsThatMatter(t *testing.T) {
	s := NewSchedule(3, 3, 10*time.Minute, names())
	need := map[time.Duration]bool{s.Steps[5].Lasts: true, s.Steps[40].Lasts: true}
	runs := 0
	small := Shrink(s, 200, func(c Schedule) bool {
		runs++
		n := 0
		for _, st := range c.Steps {
			if need[st.Lasts] {
				n++
			}
		}
		return n == 2
	})
	if len(small.Steps) != 2 {
		t.Errorf("%d steps are left after %d runs, want 2", len(small.Steps), runs)
	}
}
