package refcache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/schedulertest"
)

// fakeDaemon is a daemon whose pulls succeed at once, unless a test sets other behaviour.
type fakeDaemon struct {
	url    string
	shared bool

	mu     sync.Mutex
	cache  string // "" while the daemon does not respond
	fails  bool
	takes  time.Duration
	calls  []string // ref@digest
	busy   int
	most   int // pulls at a time
	checks int // calls of Cache
}

var _ Daemon = (*fakeDaemon)(nil)

func (d *fakeDaemon) URL() string  { return d.url }
func (d *fakeDaemon) Shared() bool { return d.shared }

func (d *fakeDaemon) Cache(context.Context) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.checks++
	if d.cache == "" {
		return "", errors.New("no response")
	}
	return d.cache, nil
}

func (d *fakeDaemon) Pull(ctx context.Context, ref, digest string) error {
	d.mu.Lock()
	d.calls = append(d.calls, ref+"@"+digest)
	d.busy++
	d.most = max(d.most, d.busy)
	fails, takes := d.fails || d.cache == "", d.takes
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		d.busy--
		d.mu.Unlock()
	}()
	t := time.NewTimer(takes)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
	}
	if fails {
		return errors.New("the registry is gone")
	}
	return nil
}

func (d *fakeDaemon) set(f func(*fakeDaemon)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

// taken returns the pulls since its last call.
func (d *fakeDaemon) taken() (calls []string) {
	d.set(func(d *fakeDaemon) { calls, d.calls = d.calls, nil })
	return calls
}

// prewarmRig is a state with the nodes a and b, which have the runtime that uses the daemons, and
// c, which does not.
type prewarmRig struct {
	t   *testing.T
	w   *schedulertest.World
	log *schedulertest.Raft
}

func newPrewarmRig(t *testing.T) *prewarmRig {
	w := schedulertest.NewWorld(t)
	r := &prewarmRig{t: t, w: w, log: &schedulertest.Raft{W: w}}
	for node, runtimes := range map[string][]string{"a": {"copy", "bk"}, "b": {"bk"}, "c": {"copy"}} {
		r.propose(&buildsv1.NodeStarted{Name: node, StoreId: "s", BootId: "b", Runtimes: runtimes})
	}
	r.propose(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	return r
}

func (r *prewarmRig) propose(payload proto.Message) {
	r.t.Helper()
	if res, _, err := builds.Propose(r.t.Context(), r.log, payload); err != nil || res.Err != nil {
		r.t.Fatalf("%T: %v %v", payload, err, res.Err)
	}
}

// refreshed makes a reference resolve to a digest.
func (r *prewarmRig) refreshed(ref, digest string) {
	r.t.Helper()
	r.propose(&buildsv1.SeedCache{IntervalNanos: int64(time.Hour)})
	var turn uint64
	var due int64
	find := func() {
		r.w.Store.Read(func(st *builds.State) {
			if c := st.CachedRef(ref); c != nil {
				turn, due = c.Turn, builds.DueAt(c)
			}
		})
	}
	r.propose(&buildsv1.PutCachedRef{Ref: &imagebuilderv1.CachedRef{Ref: ref}})
	find()
	r.propose(&buildsv1.AssignRefreshes{Assignments: []*buildsv1.AssignRefreshes_Assignment{{Ref: ref, Owner: "c", Turn: turn, DueUnixNano: due}}})
	find()
	r.propose(&buildsv1.RecordRefreshes{Results: []*buildsv1.RecordRefreshes_Result{{Ref: ref, Turn: turn, Digest: digest}}})
}

// start runs the Prewarmer of a node until stop is called or the test ends.
func (r *prewarmRig) start(node string, daemons ...Daemon) (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		(&Prewarmer{Node: node, Runtime: "bk", Store: r.w.Store, Daemons: daemons, Log: slog.New(slog.DiscardHandler)}).Run(ctx)
	})
	stop = func() { cancel(); wg.Wait() }
	r.t.Cleanup(stop)
	return stop
}

// after blocks for d of simulated time, and until all goroutines wait.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (r *prewarmRig) pulls(d *fakeDaemon, what string, want ...string) {
	r.t.Helper()
	if got := d.taken(); !slices.Equal(got, want) {
		r.t.Errorf("%s: pulled %q, want %q", what, got, want)
	}
}

func Test_Prewarmer_EachDigestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPrewarmRig(t)
		r.refreshed("x/a:1", "d1")
		one, two := &fakeDaemon{url: "one", cache: "1"}, &fakeDaemon{url: "two", cache: "2"}
		stop := r.start("a", one, two)
		after(time.Minute)
		r.pulls(one, "at the start", "x/a:1@d1")
		r.pulls(two, "at the start", "x/a:1@d1")
		r.refreshed("x/a:1", "d1")
		after(time.Hour)
		r.pulls(one, "after a refresh that found the same")
		r.refreshed("x/a:1", "d2")
		after(2 * changeDelay)
		r.pulls(one, "after another digest", "x/a:1@d2")
		r.propose(&buildsv1.DeleteCachedRef{Ref: "x/a:1"})
		after(time.Hour)
		r.pulls(one, "after its removal")
		r.refreshed("x/a:1", "d2")
		after(2 * changeDelay)
		r.pulls(one, "added again", "x/a:1@d2")
		stop()
		r.start("a", one)
		after(time.Minute)
		r.pulls(one, "after a start of the node", "x/a:1@d2")
	})
}

// Test_Prewarmer_NewestWins: a digest that was replaced before its turn is not pulled. A slow
// daemon does not hold up another one.
func Test_Prewarmer_NewestWins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPrewarmRig(t)
		slow, fast := &fakeDaemon{url: "slow", cache: "1", takes: 10 * time.Minute}, &fakeDaemon{url: "fast", cache: "2"}
		r.start("a", slow, fast)
		r.refreshed("x/a:1", "d1")
		r.refreshed("x/b:1", "e1")
		after(time.Minute)
		r.pulls(slow, "the first", "x/a:1@d1")
		r.pulls(fast, "the first two", "x/a:1@d1", "x/b:1@e1")
		r.refreshed("x/a:1", "d2")
		after(time.Minute)
		r.refreshed("x/a:1", "d3")
		after(time.Minute)
		r.pulls(slow, "while it is busy")
		r.pulls(fast, "each", "x/a:1@d2", "x/a:1@d3")
		after(time.Hour)
		r.pulls(slow, "afterwards", "x/a:1@d3", "x/b:1@e1")
		if slow.most != 1 {
			t.Errorf("%d pulls at a time", slow.most)
		}
	})
}

func Test_Prewarmer_BacksOffAfterFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPrewarmRig(t)
		r.refreshed("x/a:1", "d1")
		d := &fakeDaemon{url: "one", cache: "1", fails: true}
		r.start("a", d)
		var times int
		for _, pause := range []time.Duration{0, 5 * time.Second, 10 * time.Second, 20 * time.Second} {
			after(pause)
			times += len(d.taken())
		}
		if times != 4 {
			t.Errorf("tried %d times in 35 s, want 4", times)
		}
		after(time.Hour)
		d.taken()
		after(time.Hour)
		if n := len(d.taken()); n != 6 {
			t.Errorf("tried %d times in an hour, want one each %s", n, maxPullPause)
		}
		d.set(func(d *fakeDaemon) { d.fails = false })
		r.refreshed("x/a:1", "d2")
		after(2 * changeDelay)
		r.pulls(d, "another digest does not wait", "x/a:1@d2")
	})
}

// Test_Prewarmer_TimesOut: a pull that hangs is cancelled, and tried again after the others.
func Test_Prewarmer_TimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPrewarmRig(t)
		r.refreshed("x/a:1", "d1")
		d := &fakeDaemon{url: "one", cache: "1", takes: 24 * time.Hour}
		r.start("a", d)
		after(pullTimeout - time.Second)
		r.pulls(d, "at the start", "x/a:1@d1")
		r.refreshed("x/b:1", "e1")
		d.set(func(d *fakeDaemon) { d.takes = 0 })
		after(time.Minute)
		r.pulls(d, "after the deadline", "x/b:1@e1", "x/a:1@d1")
	})
}

// Test_Prewarmer_DaemonAway: a daemon that does not respond pulls nothing. It pulls everything once
// it responds with a new cache.
func Test_Prewarmer_DaemonAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPrewarmRig(t)
		r.refreshed("x/a:1", "d1")
		d := &fakeDaemon{url: "one"}
		r.start("a", d)
		after(time.Hour)
		r.pulls(d, "while it is away")
		if d.checks < 60 || d.checks > 70 {
			t.Errorf("its cache was checked %d times in an hour, want once a minute", d.checks)
		}
		d.set(func(d *fakeDaemon) { d.cache = "1" })
		after(maxAwayPause)
		r.pulls(d, "when it is there", "x/a:1@d1")

		d.set(func(d *fakeDaemon) { d.cache = "" })
		after(time.Hour)
		d.set(func(d *fakeDaemon) { d.cache = "1" })
		after(maxAwayPause)
		r.pulls(d, "when it is back with its cache")
		d.set(func(d *fakeDaemon) { d.cache = "2" })
		after(cacheInterval)
		r.pulls(d, "with another cache", "x/a:1@d1")
	})
}

// Test_Prewarmer_OneNodePerReference: of the nodes that share a daemon, one pulls each image. The
// others pull the images of a node that is lost.
func Test_Prewarmer_OneNodePerReference(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const refs = 50
		r := newPrewarmRig(t)
		for i := range refs {
			r.refreshed(fmt.Sprintf("x/a:%d", i), "d")
		}
		a, b := &fakeDaemon{url: "one", cache: "1", shared: true}, &fakeDaemon{url: "one", cache: "1", shared: true}
		own := &fakeDaemon{url: "own", cache: "1"}
		r.start("a", a, own)
		stopB := r.start("b", b)
		after(time.Minute)
		ofA, ofB := a.taken(), b.taken()
		if all := slices.Compact(slices.Sorted(slices.Values(slices.Concat(ofA, ofB)))); len(ofA)+len(ofB) != refs || len(all) != refs || len(ofA) == 0 || len(ofB) == 0 {
			t.Errorf("a pulled %d, b pulled %d, %d of %d references", len(ofA), len(ofB), len(all), refs)
		}
		if n := len(own.taken()); n != refs {
			t.Errorf("a's own daemon has %d references", n)
		}
		stopB()
		r.propose(&buildsv1.NodeLost{Name: "b", StoreId: "s", BootId: "b"})
		after(time.Minute)
		if n := len(a.taken()); n != len(ofB) {
			t.Errorf("a pulled %d of the %d references of the lost node", n, len(ofB))
		}
	})
}

// Test_Prewarmer_EndsWithItsContext: a pull that hangs does not delay the end of Run.
func Test_Prewarmer_EndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newPrewarmRig(t)
		r.refreshed("x/a:1", "d1")
		observed := 0
		ctx, cancel := context.WithCancel(t.Context())
		d := &fakeDaemon{url: "one", cache: "1", takes: time.Hour}
		done := make(chan struct{})
		go func() {
			defer close(done)
			(&Prewarmer{Node: "a", Runtime: "bk", Store: r.w.Store, Daemons: []Daemon{d}, Log: slog.New(slog.DiscardHandler), Observe: func(time.Duration, error) { observed++ }}).Run(ctx)
		}()
		after(time.Minute)
		begin := time.Now()
		cancel()
		<-done
		if took := time.Since(begin); took > 0 || observed != 0 {
			t.Errorf("it ended after %s, and observed %d pulls", took, observed)
		}
	})
}
