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

// asked is one question for a reference.
type lookup struct {
	node string
	at   time.Time
	// cut: its process ended before it had told the cluster.
	interrupted bool
}

// Test_Refresh_EachReferenceOncePerInterval lets three nodes keep a thousand
// references resolved for seven intervals, while the leader dies and then another
// node. Each reference is asked for once in each of its
// intervals, by one node: again only where the node that asked died before it
// could tell what it had found.
func Test_Refresh_EachReferenceOncePerInterval(t *testing.T) {
	const (
		refs       = 1000
		interval   = 10 * time.Minute
		lookupTime = 300 * time.Millisecond // that a registry takes
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
		type death struct {
			node string
			at   time.Time
		}
		var deaths []death
		crash := func(n *machine) {
			deaths = append(deaths, death{n.name, time.Now()})
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

		// untold: its process ended before the cluster knew the answer, which is
		// told a little after it came.
		unreported := func(a, next *lookup) bool {
			return a.interrupted || next.at.Sub(a.at) < time.Minute && slices.ContainsFunc(deaths, func(d death) bool {
				after := d.at.Sub(a.at)
				return d.node == a.node && after >= 0 && after < 2*time.Second
			})
		}
		by := map[string]int{}
		repeated := 0
		for ref, list := range all {
			first := list[0].at
			if first.Sub(start) > 90*time.Second {
				t.Errorf("%s was first asked for after %s", ref, first.Sub(start))
			}
			var last time.Time
			n := 0
			for i, a := range list {
				by[a.node]++
				if i > 0 && unreported(list[i-1], a) {
					repeated++
					continue // the other half of the same turn
				}
				n++
				// The first is at once, the second in the reference's own place.
				if gap := a.at.Sub(last); n > 2 && (gap < interval-time.Minute || gap > interval+time.Minute) {
					t.Errorf("%s was asked for by %s %s after the start, %s after the time before, by %s (cut %v)", ref, a.node, a.at.Sub(start), gap, list[i-1].node, list[i-1].interrupted)
				}
				last = a.at
			}
			if n < 7 || n > 8 {
				t.Errorf("%s was asked for %d times in 7 intervals", ref, n)
			}
		}
		if t.Failed() {
			for _, d := range deaths {
				t.Logf("%s died %s after the start", d.node, d.at.Sub(start))
			}
		}
		if len(all) != refs || repeated > 6 {
			t.Errorf("%d references were asked for, %d again for nodes that had died", len(all), repeated)
		}
		for node, n := range by {
			if n < refs {
				t.Errorf("node %s asked only %d times: the work is not spread", node, n)
			}
		}
		t.Logf("asked by node: %v, again: %d", by, repeated)
	})
}
