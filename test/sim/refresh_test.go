//go:build !race

package sim

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/refcache"
)

// lookup is one lookup of a reference at its registry.
type lookup struct {
	node string
	at   time.Time
	// interrupted reports whether the process ended before the registry had responded.
	interrupted bool
}

// Test_Refresh_EachReferenceOncePerInterval lets three nodes keep a thousand references resolved
// for seven intervals, while the leader crashes and then another node. Each reference is looked up
// once per interval, by one node. It is looked up again only if that node crashed before it could
// commit the result. The test is not compiled with the race detector, with which 70 simulated
// minutes take one and a half: `make test` runs it without.
func Test_Refresh_EachReferenceOncePerInterval(t *testing.T) {
	const (
		refs       = 1000
		interval   = 10 * time.Minute
		lookupTime = 300 * time.Millisecond // of a registry
	)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 7, 3)
		var mu sync.Mutex
		all := map[string][]*lookup{}
		w.refresh = func(ctx context.Context, node, ref string) (refcache.Refreshed, error) {
			a := &lookup{node: node, at: time.Now()}
			mu.Lock()
			all[ref] = append(all[ref], a)
			mu.Unlock()
			if !wait(ctx, lookupTime) {
				mu.Lock()
				a.interrupted = true
				mu.Unlock()
				return refcache.Refreshed{}, ctx.Err()
			}
			return refcache.Refreshed{Digest: "sha256:" + ref}, nil
		}
		w.interval = interval
		for _, n := range w.nodes {
			n.start()
		}
		seed := &buildsv1.SeedCache{IntervalNanos: int64(interval)}
		for i := range refs {
			seed.Refs = append(seed.Refs, fmt.Sprintf("r%d.example.com/a:%d", i%3, i))
		}
		w.propose(seed)
		start := time.Now()
		until := func(d time.Duration) { wait(context.Background(), time.Until(start.Add(d))) }

		until(90 * time.Second)
		known := 0
		w.nodes[0].alive().store().Read(func(st *builds.State) {
			for _, r := range st.CachedRefs() {
				if r.Digest == "sha256:"+r.Ref {
					known++
				}
			}
		})
		if known != refs {
			t.Errorf("a minute and a half after the start %d of %d references are resolved", known, refs)
		}
		until(2*interval + interval/3)
		type crashed struct {
			node string
			at   time.Time
		}
		var crashes []crashed
		crash := func(n *machine) {
			crashes = append(crashes, crashed{n.name, time.Now()})
			n.crash()
		}
		leader, _ := w.awaitLeader()
		crash(leader)
		until(3*interval + interval/3)
		leader.start()
		until(3*interval + interval/2)
		_, others := w.awaitLeader()
		other := others[0]
		crash(other)
		until(4*interval + interval/2)
		other.start()
		until(7 * interval)
		for _, n := range w.nodes {
			n.crash()
		}

		// unreported reports whether the node of a lookup crashed before it had committed the
		// result, which it does within two seconds.
		unreported := func(a, next *lookup) bool {
			return a.interrupted || next.at.Sub(a.at) < time.Minute && slices.ContainsFunc(crashes, func(d crashed) bool {
				after := d.at.Sub(a.at)
				return d.node == a.node && after >= 0 && after < 2*time.Second
			})
		}
		by := map[string]int{}
		repeated := 0
		for ref, list := range all {
			first := list[0].at
			if first.Sub(start) > 90*time.Second {
				t.Errorf("%s was first looked up after %s", ref, first.Sub(start))
			}
			var last time.Time
			n := 0
			for i, a := range list {
				by[a.node]++
				if i > 0 && unreported(list[i-1], a) {
					repeated++
					continue // repeats the lookup of the same interval
				}
				n++
				// The first lookup is immediate, and the second at the reference's own time in the
				// interval. From then on they are an interval apart.
				if gap := a.at.Sub(last); n > 2 && (gap < interval-time.Minute || gap > interval+time.Minute) {
					t.Errorf("%s was looked up by %s %s after the start, %s after the lookup before, by %s (interrupted %v)", ref, a.node, a.at.Sub(start), gap, list[i-1].node, list[i-1].interrupted)
				}
				last = a.at
			}
			if n < 7 || n > 8 {
				t.Errorf("%s was looked up %d times in 7 intervals", ref, n)
			}
		}
		if t.Failed() {
			for _, d := range crashes {
				t.Logf("%s crashed %s after the start", d.node, d.at.Sub(start))
			}
		}
		if len(all) != refs || repeated > 6 {
			t.Errorf("%d references were looked up, %d of them again after a crash", len(all), repeated)
		}
		for node, n := range by {
			if n < refs {
				t.Errorf("node %s made only %d lookups: they are not distributed", node, n)
			}
		}
		t.Logf("lookups by node: %v, repeated: %d", by, repeated)
	})
}
