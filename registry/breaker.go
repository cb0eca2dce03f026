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

// breaker controls all requests to one host: concurrency and rate limits, the pauses that the host
// asked for, and a circuit breaker. Each host has a breaker of its own. So a host that hangs does
// not delay requests to other hosts.
type breaker struct {
	host      string
	slots     *semaphore
	perSecond func() float64 // this process's share of the rate, 0 for no bound
	rate      *rate.Limiter
	pauses    pauses
	slow      time.Duration // a request that was cancelled earlier than this does not count as failed
	now       func() time.Time

	mu           sync.Mutex
	failures     int           // consecutive requests without a response
	openDuration time.Duration // how long the breaker was opened last
	openUntil    time.Time     // zero if the breaker is closed
	probing      bool          // the breaker is half-open: one request tests the host
}

// enter waits until the host's limits permit a request. It does not wait while the circuit breaker
// is open or a pause lasts: then it returns an *openError or a *pauseError. identity identifies the
// caller's credential. leave must be called exactly once, with the outcome of the request.
func (b *breaker) enter(ctx context.Context, identity string, upload bool) (leave func(error), err error) {
	if err := b.paused(identity); err != nil {
		return nil, err
	}
	probe, err := b.allow()
	if err != nil {
		return nil, err
	}
	if err := b.wait(ctx, identity, upload); err != nil {
		b.record(probe, false, errors.New("not sent"))
		return nil, err
	}
	start := b.now()
	return func(err error) {
		if !upload {
			b.slots.release()
		}
		if upload && ctx.Err() != nil {
			b.record(probe, false, err) // an upload may take any time, so its end says nothing about the host
			return
		}
		b.record(probe, b.unanswered(ctx, err, b.now().Sub(start)), err)
	}, nil
}

// paused returns a *pauseError while a pause of the host lasts.
func (b *breaker) paused(identity string) error {
	if left := b.pauses.left(identity, b.now()); left > 0 {
		return &pauseError{b.host, left}
	}
	return nil
}

// wait waits for the rate limit and, except for uploads, for a slot.
func (b *breaker) wait(ctx context.Context, identity string, upload bool) error {
	if l := rate.Limit(b.perSecond()); l > 0 && l != b.rate.Limit() {
		b.rate.SetBurst(max(1, int(l)))
		b.rate.SetLimit(l)
	}
	if err := b.rate.Wait(ctx); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &kindError{kind: RateLimited, text: fmt.Sprintf("this node's rate limit for %s does not permit another request in time", b.host)}
	}
	if upload {
		return b.paused(identity)
	}
	if err := b.slots.acquire(ctx); err != nil {
		return err
	}
	// A pause may have begun during the wait for the slot.
	if err := b.paused(identity); err != nil {
		b.slots.release()
		return err
	}
	return nil
}

// unanswered reports whether a request failed because the host does not respond. It is false if the
// caller cancelled the request early. It is also false if the error is a response of the host, or
// comes from our own rules or from the source of an upload.
func (b *breaker) unanswered(ctx context.Context, err error, took time.Duration) bool {
	if err == nil {
		return false
	}
	if ctx.Err() != nil {
		return took >= b.slow
	}
	var status *statusError
	var addr *AddressError
	var kind *kindError
	var source *sourceError
	return !errors.As(err, &source) && !errors.As(err, &status) && !errors.As(err, &addr) && !errors.As(err, &kind) && !permanent(err)
}

// allow returns an *openError while the circuit breaker is open. When the open period has passed,
// the breaker is half-open: one request is let through with probe true and decides whether the
// breaker closes.
func (b *breaker) allow() (probe bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.openUntil.IsZero() {
		return false, nil
	}
	left := b.openUntil.Sub(b.now())
	if left > 0 || b.probing {
		return false, &openError{b.host, max(left, 100*time.Millisecond)}
	}
	b.probing = true
	return true, nil
}

// record applies the outcome of a request: success closes the circuit breaker, a missing response
// may open it, any other error changes nothing.
func (b *breaker) record(probe, unanswered bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if probe {
		b.probing = false
	}
	switch {
	case err == nil:
		b.failures, b.openDuration, b.openUntil = 0, 0, time.Time{}
	case unanswered:
		b.failures++
		if probe || b.failures >= breakerThreshold && b.openUntil.IsZero() {
			b.openDuration = min(max(2*b.openDuration, minOpenDuration), maxOpenDuration)
			b.openUntil = b.now().Add(b.openDuration)
		}
	}
}

// openFor returns how long the circuit breaker stays open; 0 if it is closed or half-open.
func (b *breaker) openFor() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.openUntil.IsZero() {
		return 0
	}
	return max(b.openUntil.Sub(b.now()), 0)
}

// breakers holds the breakers of all hosts.
type breakers struct {
	table   hostTable
	limit   int
	sharers func() int
	base    time.Duration
	slow    time.Duration
	mu      sync.Mutex
	byHost  *lru.Cache[string, *breaker]
}

func newBreakers(o Options, table hostTable) (*breakers, error) {
	cache, err := lru.New[string, *breaker](maxBreakers)
	return &breakers{
		table: table, limit: o.Concurrency, sharers: func() int { return max(1, o.Sharers()) },
		base: o.RetryBase, slow: o.Timeout / mirrorTimeoutDivisor / 2, byHost: cache,
	}, err
}

// of returns the breaker of a canonical host. It makes one if there is none.
func (bs *breakers) of(host string) *breaker {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if b, ok := bs.byHost.Get(host); ok {
		return b
	}
	o := bs.table.hosts[host]
	concurrency := func() int { return bs.limit }
	if o.Concurrency > 0 {
		concurrency = func() int { return max(1, o.Concurrency/bs.sharers()) }
	}
	perSecond := func() float64 { return 0 }
	if o.RequestsPerSecond > 0 {
		perSecond = func() float64 { return o.RequestsPerSecond / float64(bs.sharers()) }
	}
	b := &breaker{
		host: host, slots: &semaphore{limit: concurrency}, perSecond: perSecond, rate: rate.NewLimiter(rate.Inf, 0),
		pauses: pauses{base: bs.base}, slow: bs.slow, now: time.Now,
	}
	bs.byHost.Add(host, b)
	return b
}
