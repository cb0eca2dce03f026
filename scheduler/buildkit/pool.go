package buildkit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/moby/buildkit/client"
	"go.opentelemetry.io/otel/trace"
)

const (
	pingTimeout = 3 * time.Second
	// pingTTL is how long a successful ping counts: meanwhile the daemon gets work without a new
	// one.
	pingTTL = 2 * time.Second
	// avoidPeriod is how long a daemon is avoided after it has failed a solve. It then gets work
	// only if there is no other daemon.
	avoidPeriod = time.Minute
)

// pool chooses among daemons.
type pool struct {
	daemons []*endpoint
	mu      sync.Mutex // guards load, answeredAt and failedAt of all endpoints
}

// endpoint is one daemon, with the state that this process keeps about it.
type endpoint struct {
	url        string
	client     *client.Client
	load       int // number of solves of this process
	answeredAt time.Time
	failedAt   time.Time // the last failure of a solve
}

// openPool makes the clients. It does not connect yet.
func openPool(addrs []Address, tracer trace.TracerProvider) (*pool, error) {
	p := &pool{}
	for _, a := range addrs {
		var opts []client.ClientOpt
		if a.TLS != nil {
			opts = append(opts, client.WithCredentials(a.TLS.Cert, a.TLS.Key), client.WithServerConfig(a.TLS.ServerName, a.TLS.CA))
		}
		if tracer != nil {
			opts = append(opts, client.WithTracerProvider(tracer))
		}
		c, err := client.New(context.Background(), a.URL, opts...)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("buildkit: open daemon %s: %w", a.URL, err), p.close())
		}
		p.daemons = append(p.daemons, &endpoint{url: a.URL, client: c})
	}
	return p, nil
}

func (p *pool) close() error {
	var errs []error
	for _, e := range p.daemons {
		errs = append(errs, e.client.Close())
	}
	return errors.Join(errs...)
}

// acquire returns a daemon that responds. Each attempt of a build gets another daemon if there are
// several, preferably one that has not failed recently. The caller releases it. If no daemon
// responds, the error is a *noDaemonError.
func (p *pool) acquire(ctx context.Context, key string, attempt uint32) (*endpoint, error) {
	var errs []error
	tried := map[*endpoint]bool{}
	for {
		e := p.take(key, attempt, tried)
		if e == nil {
			return nil, &noDaemonError{errors.Join(errs...)}
		}
		err := p.check(ctx, e)
		if err == nil {
			return e, nil
		}
		p.release(e)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		tried[e] = true
		errs = append(errs, fmt.Errorf("%s: %w", e.url, err))
	}
}

// take chooses a daemon for the key among those that are not in without, and counts a solve on it.
// It returns nil if none is left.
func (p *pool) take(key string, attempt uint32, without map[*endpoint]bool) *endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	var left []candidate
	for i, e := range p.daemons {
		if !without[e] {
			left = append(left, candidate{index: i, url: e.url, load: e.load, avoid: !e.failedAt.IsZero() && time.Since(e.failedAt) < avoidPeriod})
		}
	}
	if len(left) == 0 {
		return nil
	}
	e := p.daemons[choose(left, key, attempt)]
	e.load++
	return e
}

func (p *pool) release(e *endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.load--
}

// suspect records that the daemon failed a solve: the next acquire pings it first, and prefers
// others for avoidPeriod.
func (p *pool) suspect(e *endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.answeredAt, e.failedAt = time.Time{}, time.Now()
}

func (p *pool) check(ctx context.Context, e *endpoint) error {
	p.mu.Lock()
	trusted := time.Since(e.answeredAt) < pingTTL
	p.mu.Unlock()
	if trusted {
		return nil
	}
	if err := e.ping(ctx, pingTimeout); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e.answeredAt = time.Now()
	return nil
}

// ping checks that the daemon can work.
func (e *endpoint) ping(ctx context.Context, timeout time.Duration) error {
	_, err := e.workers(ctx, timeout)
	return err
}

// workers returns the ids of the daemon's workers, at least one.
func (e *endpoint) workers(ctx context.Context, timeout time.Duration) (ids []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	workers, err := e.client.ListWorkers(ctx)
	if err == nil && len(workers) == 0 {
		return nil, errors.New("it has no worker")
	}
	for _, w := range workers {
		ids = append(ids, w.ID)
	}
	return ids, err
}

// watch pings the daemon, with a pause of every in between. After watchMisses failed pings in a row
// it calls gone once and returns. It also returns when ctx ends.
func (e *endpoint) watch(ctx context.Context, every time.Duration, gone func(error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for misses := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := e.ping(ctx, every)
		if err == nil {
			misses = 0
			continue
		}
		if misses++; misses == watchMisses {
			gone(&unresponsiveError{fmt.Errorf("the BuildKit daemon %s does not answer any more: %w", e.url, err)})
			return
		}
	}
}

// unresponsiveError is the cause of the end of a solve whose daemon no longer responds.
type unresponsiveError struct{ error }

// candidate is a daemon to choose from.
type candidate struct {
	index int
	url   string
	load  int
	// avoid says that the daemon failed a solve recently.
	avoid bool
}

// choose returns the index of the first candidate, in the rendezvous order of the key, whose load
// is below 5/4 of the mean (consistent hashing with bounded loads, Mirrokni et al. 2016). So builds
// with the same key use the same warm cache while no daemon is much busier than the others.
// Candidates with avoid set are chosen only if all have it.
//
// Each later attempt starts one place later in the order, because the daemon may have caused the
// failure of the former attempt. This works without a record of that failure, which another node
// may have seen.
func choose(cs []candidate, key string, attempt uint32) int {
	if fit := slices.DeleteFunc(slices.Clone(cs), func(c candidate) bool { return c.avoid }); len(fit) > 0 {
		cs = fit
	}
	total := 1
	for _, c := range cs {
		total += c.load
	}
	bound := (5*total + 4*len(cs) - 1) / (4 * len(cs))
	ordered := slices.SortedFunc(slices.Values(cs), func(a, b candidate) int {
		return cmp.Compare(xxhash.Sum64String(key+"\x00"+b.url), xxhash.Sum64String(key+"\x00"+a.url))
	})
	skip := int(max(attempt, 1)-1) % len(ordered)
	ordered = slices.Concat(ordered[skip:], ordered[:skip])
	for _, c := range ordered {
		if c.load < bound {
			return c.index
		}
	}
	return ordered[0].index
}

// watchMisses is the number of failed pings in a row after which a solve is given up.
const watchMisses = 3

// noDaemonError says that no daemon responds.
type noDaemonError struct{ err error }

func (e *noDaemonError) Error() string { return "no BuildKit daemon answers: " + e.err.Error() }

func (e *noDaemonError) Unwrap() error { return e.err }
