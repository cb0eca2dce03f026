package registry

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Test_RegistryLimits_AreOfTheCluster sends three nodes as many calls as they can process. Together
// they send a registry no more requests than its limit, and after the death of one node the two
// others use its part of the limit.
func Test_RegistryLimits_AreOfTheCluster(t *testing.T) {
	const perSecond = 12
	reg := registrytest.Start(t, registrytest.Options{})
	p := registrytest.NewProxy(t, reg)
	for i := range 3 {
		reg.Push(t, fmt.Sprint("team/app:", i), registrytest.RandomImage(t, 1, 1<<10))
	}
	var mu sync.Mutex
	var seen []time.Time
	p.On(registrytest.All, -1, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		seen = append(seen, time.Now())
		mu.Unlock()
		next.ServeHTTP(w, r)
	})
	c := harness.StartCluster(t, 3, reg.Addr, harness.Config{"registry": map[string]any{
		"allowLoopback": true, "hosts": map[string]any{p.Addr: map[string]any{"requestsPerSecond": perSecond}},
	}})
	ctx, cancel := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	defer clients.Wait()
	defer cancel()
	for i, n := range c.Nodes {
		for range 4 {
			clients.Go(func() {
				for ctx.Err() == nil {
					_, _ = n.Gitpod.ResolveBaseImage(ctx, &builder.ResolveBaseImageRequest{Ref: fmt.Sprint(p.Addr, "/team/app:", i)}) // fails on the node that dies
				}
			})
		}
	}
	// between counts the requests in a period. A limiter may exceed its limit by the tokens of one
	// second.
	between := func(from time.Time, d time.Duration) (n int) {
		testkit.Eventually(t, d+time.Minute, "the time is over", func() bool { return time.Since(from) > d })
		mu.Lock()
		defer mu.Unlock()
		for _, at := range seen {
			if at.After(from) && at.Before(from.Add(d)) {
				n++
			}
		}
		return n
	}
	const while = 5 * time.Second
	testkit.Eventually(t, time.Minute, "the registry gets requests", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(seen) > 0
	})
	if n := between(time.Now(), while); n > perSecond*6 {
		t.Errorf("three nodes sent %d requests in %s, at a limit of %d per second", n, while, perSecond)
	} else {
		t.Logf("three nodes: %d requests in %s", n, while)
	}
	c.Nodes[2].Kill()
	testkit.Eventually(t, time.Minute, "the other nodes use more than two thirds of the limit, and not more than all of it", func() bool {
		n := between(time.Now(), while)
		t.Logf("two nodes: %d requests in %s", n, while)
		if n > perSecond*6 {
			t.Errorf("two nodes sent %d requests in %s", n, while)
		}
		return n > perSecond*5*5/6
	})
}
