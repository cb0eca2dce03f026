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

// gate is what all requests to one host pass: its limits, the pauses that it
// asked for, and its breaker. So a host that hangs holds up nobody who wants
// another.
type gate struct {
	host      string
	slots     *slots
	perSecond func() float64 // this process's part of the rate, 0 for no bound
	rate      *rate.Limiter
	pauses    pauses
	slow      time.Duration // a request that was given up earlier tells nothing
	now       func() time.Time

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

// enter waits for the host's limits. It does not wait where the host is not to
// be asked for a while: that is a *restError or a *pauseError. who names the
// caller's credential. leave must be called once, with the outcome of the
// request.
func (g *gate) enter(ctx context.Context, who string, upload bool) (leave func(error), err error) {
	if err := g.paused(who); err != nil {
		return nil, err
	}
	probe, err := g.allow()
	if err != nil {
		return nil, err
	}
	if err := g.wait(ctx, who, upload); err != nil {
		g.settle(probe, false, errors.New("not asked"))
		return nil, err
	}
	start := g.now()
	return func(err error) {
		if !upload {
			g.slots.release()
		}
		if upload && ctx.Err() != nil {
			g.settle(probe, false, err) // it takes as long as it takes
			return
		}
		g.settle(probe, g.unanswered(ctx, err, g.now().Sub(start)), err)
	}, nil
}

// paused answers a *pauseError while the host wants to be left alone.
func (g *gate) paused(who string) error {
	if left := g.pauses.left(who, g.now()); left > 0 {
		return &pauseError{g.host, left}
	}
	return nil
}

func (g *gate) wait(ctx context.Context, who string, upload bool) error {
	if l := rate.Limit(g.perSecond()); l > 0 && l != g.rate.Limit() {
		g.rate.SetBurst(max(1, int(l)))
		g.rate.SetLimit(l)
	}
	if err := g.rate.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &kindError{kind: RateLimited, text: fmt.Sprintf("this node's limit of requests to %s leaves no room in time", g.host)}
	}
	if upload {
		return g.paused(who)
	}
	if err := g.slots.acquire(ctx); err != nil {
		return err
	}
	// While this one waited another may have been told to pause.
	if err := g.paused(who); err != nil {
		g.slots.release()
		return err
	}
	return nil
}

// unanswered tells whether a request's error means that the host does not
// answer: not one that the caller ended, nor one that an answer of any kind,
// our own rules or the source of an upload caused.
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
	var source *sourceError
	return !errors.As(err, &source) && !errors.As(err, &status) && !errors.As(err, &addr) && !errors.As(err, &kind) && !permanent(err)
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
	table   hostTable
	limit   int
	sharers func() int
	base    time.Duration
	slow    time.Duration
	mu      sync.Mutex
	byHost  *lru.Cache[string, *gate]
}

func newGates(o Options, table hostTable) (*gates, error) {
	cache, err := lru.New[string, *gate](maxGates)
	return &gates{
		table: table, limit: o.Concurrency, sharers: func() int { return max(1, o.Sharers()) },
		base: o.RetryBase, slow: o.Timeout / mirrorShare / 2, byHost: cache,
	}, err
}

// of answers the gate of a canonical host.
func (gs *gates) of(host string) *gate {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if g, ok := gs.byHost.Get(host); ok {
		return g
	}
	o := gs.table.hosts[host]
	atATime := func() int { return gs.limit }
	if o.Concurrency > 0 {
		atATime = func() int { return max(1, o.Concurrency/gs.sharers()) }
	}
	perSecond := func() float64 { return 0 }
	if o.RequestsPerSecond > 0 {
		perSecond = func() float64 { return o.RequestsPerSecond / float64(gs.sharers()) }
	}
	g := &gate{
		host: host, slots: &slots{limit: atATime}, perSecond: perSecond, rate: rate.NewLimiter(rate.Inf, 0),
		pauses: pauses{base: gs.base}, slow: gs.slow, now: time.Now,
	}
	gs.byHost.Add(host, g)
	return g
}
