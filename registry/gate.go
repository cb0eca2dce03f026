package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

const (
	// breakerAfter is how many requests in a row must go unanswered before a
	// host is given a rest.
	breakerAfter = 5
	breakerFirst = time.Second      // of the first rest; each doubles
	breakerMost  = 30 * time.Second // of the longest
	maxGates     = 512              // hosts come from requests
)

// gate is what all requests to one host pass: its limits and its breaker. So a
// host that hangs holds up nobody who wants another.
type gate struct {
	host  string
	slots chan struct{}
	rate  *rate.Limiter
	slow  time.Duration // a request that was given up earlier tells nothing
	now   func() time.Time

	mu      sync.Mutex
	failed  int           // in a row, unanswered
	rest    time.Duration // the last one
	until   time.Time     // of the rest; zero for closed
	probing bool          // one request is finding out whether it is over
}

// restError says that a host is not asked because it did not answer.
type restError struct {
	host string
	left time.Duration
}

func (e *restError) Error() string {
	return fmt.Sprintf("%s did not answer the last %d requests; it is asked again in %s", e.host, breakerAfter, e.left.Round(100*time.Millisecond))
}

// enter waits for the host's limits. leave must be called once, with the
// outcome of the request.
func (g *gate) enter(ctx context.Context, upload bool) (leave func(error), err error) {
	probe, err := g.allow()
	if err != nil {
		return nil, err
	}
	if err := g.wait(ctx, upload); err != nil {
		g.settle(probe, false, errors.New("not asked"))
		return nil, err
	}
	start := g.now()
	return func(err error) {
		if !upload {
			<-g.slots
		}
		if upload && ctx.Err() != nil {
			g.settle(probe, false, err) // it takes as long as it takes
			return
		}
		g.settle(probe, g.unanswered(ctx, err, g.now().Sub(start)), err)
	}, nil
}

func (g *gate) wait(ctx context.Context, upload bool) error {
	if err := g.rate.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &kindError{kind: RateLimited, text: fmt.Sprintf("this node's limit of requests to %s leaves no room in time", g.host)}
	}
	if upload {
		return nil
	}
	select {
	case g.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// unanswered tells whether a request's error means that the host does not
// answer: not one that the caller ended, nor one that an answer of any kind or
// our own rules caused.
func (g *gate) unanswered(ctx context.Context, err error, took time.Duration) bool {
	if err == nil {
		return false
	}
	if ctx.Err() != nil {
		return took >= g.slow
	}
	var status *statusError
	var addr *AddressError
	var kind *kindError
	return !errors.As(err, &status) && !errors.As(err, &addr) && !errors.As(err, &kind) && !permanent(err)
}

// allow answers a *restError while the host rests. probe tells that this
// request decides whether the rest is over.
func (g *gate) allow() (probe bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.until.IsZero() {
		return false, nil
	}
	left := g.until.Sub(g.now())
	if left > 0 || g.probing {
		return false, &restError{g.host, max(left, 100*time.Millisecond)}
	}
	g.probing = true
	return true, nil
}

func (g *gate) settle(probe, unanswered bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if probe {
		g.probing = false
	}
	switch {
	case err == nil:
		g.failed, g.rest, g.until = 0, 0, time.Time{}
	case unanswered:
		g.failed++
		if probe || g.failed >= breakerAfter && g.until.IsZero() {
			g.rest = min(max(2*g.rest, breakerFirst), breakerMost)
			g.until = g.now().Add(g.rest)
		}
	}
}

// resting is how long the host is given a rest yet.
func (g *gate) resting() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.until.IsZero() {
		return 0
	}
	return max(g.until.Sub(g.now()), 0)
}

// gates are those of all hosts.
type gates struct {
	table  hostTable
	limit  int
	slow   time.Duration
	mu     sync.Mutex
	byHost *lru.Cache[string, *gate]
}

func newGates(o Options, table hostTable) (*gates, error) {
	cache, err := lru.New[string, *gate](maxGates)
	return &gates{table: table, limit: o.Concurrency, slow: o.Timeout / mirrorShare / 2, byHost: cache}, err
}

// of answers the gate of a canonical host.
func (gs *gates) of(host string) *gate {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if g, ok := gs.byHost.Get(host); ok {
		return g
	}
	o := gs.table.hosts[host]
	if o.Concurrency == 0 {
		o.Concurrency = gs.limit
	}
	g := &gate{host: host, slots: make(chan struct{}, o.Concurrency), rate: rate.NewLimiter(rate.Inf, 0), slow: gs.slow, now: time.Now}
	if o.RequestsPerSecond > 0 {
		g.rate = rate.NewLimiter(rate.Limit(o.RequestsPerSecond), max(1, int(o.RequestsPerSecond)))
	}
	gs.byHost.Add(host, g)
	return g
}
