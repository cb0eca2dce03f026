package cluster_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/image-builder-ha/image-builder/cluster"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

func Test_Propose_SurvivesReopen(t *testing.T) {
	dir := t.TempDir()
	n := open(t, fastConfig(dir, &tally{}))
	for v := range uint64(20) {
		if res := put(t, n, v); res.Result != v {
			t.Fatalf("got result %v, want %d", res.Result, v)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	sm := &tally{}
	n = open(t, fastConfig(dir, sm))
	put(t, n, 20)
	if got := sm.values(); len(got) != 21 || got[20] != 20 {
		t.Errorf("after the restart: %v", got)
	}
}

func Test_Snapshot_RestoresAndCompacts(t *testing.T) {
	dir := t.TempDir()
	cfg := fastConfig(dir, &tally{})
	cfg.TrailingLogs = 1
	n := open(t, cfg)
	for v := range uint64(50) {
		put(t, n, v)
	}
	if err := n.Snapshot(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, n, 50)
	applied := n.Applied()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	sm := &tally{}
	cfg.StateMachine = sm
	n = open(t, cfg)
	if err := n.WaitApplied(t.Context(), applied); err != nil {
		t.Fatal(err)
	}
	if got := sm.values(); len(got) != 51 {
		t.Errorf("after the restart: %d values, want 51", len(got))
	}
}

func Test_DataDir_OneProcessOneName(t *testing.T) {
	dir := t.TempDir()
	n := open(t, fastConfig(dir, &tally{}))
	if _, err := cluster.New(fastConfig(dir, &tally{})); err == nil || !strings.Contains(err.Error(), "used by another process (pid ") {
		t.Errorf("second process: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := fastConfig(dir, &tally{})
	cfg.Name = "n2"
	if _, err := cluster.New(cfg); err == nil || !strings.Contains(err.Error(), `belongs to node "n1"`) {
		t.Errorf("another name: %v", err)
	}
}

func Test_Clock_JumpNeedsConsent(t *testing.T) {
	dir := t.TempDir()
	n := open(t, fastConfig(dir, &tally{}))
	put(t, n, 1)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	for name, shift := range map[string]time.Duration{"before": -2 * time.Hour, "after": 100 * 24 * time.Hour} {
		cfg := fastConfig(dir, &tally{})
		cfg.Now = func() time.Time { return time.Now().Add(shift) }
		if _, err := tryOpen(t, cfg); err == nil || !strings.Contains(err.Error(), name+" the last change") {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg := fastConfig(dir, &tally{})
	cfg.Now = func() time.Time { return time.Now().Add(-2 * time.Hour) }
	cfg.AcceptClockJump = true
	n = open(t, cfg)
	put(t, n, 2)
	if got, now := cfg.StateMachine.LastTime(), time.Now().UnixNano(); got > now {
		t.Errorf("the state's time is %d, the right clock's is %d", got, now)
	}
}

func Test_UnknownCommand_StopsTheNode(t *testing.T) {
	sm := &tally{}
	n := open(t, fastConfig(t.TempDir(), sm))
	put(t, n, 1)
	res, err := n.Propose(t.Context(), &clusterv1.Command{Type: 99})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := res.Result.(error); !ok {
		t.Errorf("got %v, want an error", res.Result)
	}
	select {
	case err := <-n.Fatal():
		if !strings.Contains(err.Error(), "what is this") {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the node goes on")
	}
	if res, err := n.Propose(t.Context(), value(2)); err == nil && len(sm.values()) != 1 {
		t.Errorf("applied after the unknown command: %v", res)
	}
	if err := n.Snapshot(t.Context()); err == nil {
		t.Error("a snapshot was taken of a state that misses a command")
	}
}

func Test_Lead_OneRunAtATime(t *testing.T) {
	var running, runs atomic.Int32
	n, err := cluster.New(fastConfig(t.TempDir(), &tally{}))
	if err != nil {
		t.Fatal(err)
	}
	n.Lead(func(ctx context.Context, _ *cluster.Term) error {
		if running.Add(1) != 1 {
			t.Error("two runs at once")
		}
		runs.Add(1)
		<-ctx.Done()
		running.Add(-1)
		return nil
	})
	if err := n.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	put(t, n, 1)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if running.Load() != 0 || runs.Load() != 1 {
		t.Errorf("%d runs, %d still going", runs.Load(), running.Load())
	}
	if _, err := n.Propose(t.Context(), value(2)); err == nil {
		t.Error("a closed node accepted a command")
	}
}

func Test_ReadIndex_HoldsWhatWasAcknowledged(t *testing.T) {
	n := open(t, fastConfig(t.TempDir(), &tally{}))
	var wg sync.WaitGroup
	for v := range uint64(32) {
		wg.Go(func() {
			res := put(t, n, v)
			index, err := n.ReadIndex(t.Context())
			if err != nil || index < res.Index {
				t.Errorf("read index %d, %v after the acknowledgement of %d", index, err, res.Index)
			}
		})
	}
	wg.Wait()
}

func Test_Propose_EndsWithItsContext(t *testing.T) {
	n, err := cluster.New(fastConfig(t.TempDir(), &tally{}))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Propose(ctx, value(1)); !errors.Is(err, cluster.ErrNoLeader) && !errors.Is(err, cluster.ErrOutcomeUnknown) {
		t.Errorf("got %v, want one that says what is known of the outcome", err)
	}
	if err := n.WaitApplied(ctx, 1000); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func Test_Time_FollowsTheLeaderMonotonically(t *testing.T) {
	var shift atomic.Int64
	cfg := fastConfig(t.TempDir(), &tally{})
	cfg.Now = func() time.Time { return time.Now().Round(0).Add(time.Duration(shift.Load())) }
	n := open(t, cfg)
	var times []int64
	for v := range uint64(3) {
		put(t, n, v)
		times = append(times, cfg.StateMachine.LastTime())
		shift.Add(-int64(time.Hour))
	}
	if diff := cmp.Diff([]bool{true, true}, []bool{times[1] >= times[0], times[2] >= times[1]}); diff != "" {
		t.Error(diff, times)
	}
}

func Benchmark_Propose(b *testing.B) {
	for _, callers := range []int{1, 32, 128} {
		b.Run(map[int]string{1: "callers=1", 32: "callers=32", 128: "callers=128"}[callers], func(b *testing.B) {
			n := open(b, fastConfig(b.TempDir(), &tally{}))
			put(b, n, 0)
			b.SetParallelism(max(callers/2, 1))
			if callers == 1 {
				for b.Loop() {
					put(b, n, 1)
				}
				return
			}
			b.RunParallel(func(p *testing.PB) {
				for p.Next() {
					put(b, n, 1)
				}
			})
		})
	}
}
