package registry

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestSemaphore_FollowsALimitThatChanges expects that never more than the current limit run, that
// no caller is forgotten, and that callers that give up lose no slot.
func TestSemaphore_FollowsALimitThatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var limit, under, most atomic.Int64
		limit.Store(6)
		s := &semaphore{limit: func() int { return int(limit.Load()) }}
		var wg sync.WaitGroup
		work := func(timeout time.Duration) {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), timeout)
				defer cancel()
				if s.acquire(ctx) != nil {
					return
				}
				now := under.Add(1)
				for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
				}
				time.Sleep(time.Duration(1+rand.IntN(20)) * time.Millisecond)
				under.Add(-1)
				s.release()
			})
		}
		for _, l := range []int64{6, 2, 3} {
			limit.Store(l)
			most.Store(0)
			for range 200 {
				work(time.Duration(1+rand.IntN(100)) * time.Millisecond)
			}
			wg.Wait()
			if most.Load() != l {
				t.Errorf("%d at a time at a limit of %d", most.Load(), l)
			}
		}
		if s.used != 0 || s.queue.Len() != 0 {
			t.Errorf("%d are used, %d wait when all have left", s.used, s.queue.Len())
		}
	})
}

// TestBreakers_ShareTheLimitsOfAHostAmongTheNodes expects each node to take its share of the limits
// that are configured for a host, for the current number of nodes, and the whole limit for other
// hosts.
func TestBreakers_ShareTheLimitsOfAHostAmongTheNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes := 0
		bs, err := newBreakers(
			Options{Concurrency: 10, Sharers: func() int { return nodes }},
			hostTable{hosts: map[string]HostOptions{"h": {RequestsPerSecond: 12, Concurrency: 6}}},
		)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ nodes, perSecond, limited, other int }{
			{0, 12, 6, 10}, {1, 12, 6, 10}, {3, 4, 2, 10}, {2, 6, 3, 10}, {12, 1, 1, 10},
		} {
			nodes = c.nodes
			for host, want := range map[string]int{"h": c.limited, "other": c.other} {
				if got := bs.of(host).slots.limit(); got != want {
					t.Errorf("%d nodes: %d at a time of %s, want %d", nodes, got, host, want)
				}
			}
			br := bs.of("h")
			send(t, br, nil)            // applies the new rate
			time.Sleep(2 * time.Second) // fills the burst
			start, n := time.Now(), 0
			for time.Since(start) < 10*time.Second {
				send(t, br, nil)
				n++
			}
			if want := 11 * c.perSecond; n < want || n > want+1 {
				t.Errorf("%d nodes: %d requests in 10 s, want %d", nodes, n, want)
			}
		}
	})
}
