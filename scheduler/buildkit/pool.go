package buildkit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/moby/buildkit/client"
	"go.opentelemetry.io/otel/trace"
)

const (
	pingTimeout = 3 * time.Second
	// trustTime is how long a daemon that answered is not asked again before
	// it gets work.
	trustTime = 2 * time.Second
	// shunTime is how long a daemon that failed a solve gets others only when
	// there is no other daemon.
	shunTime = time.Minute
)

// pool chooses among daemons.
type pool struct {
	daemons []*endpoint
	mu      sync.Mutex // guards load, answered and failed of all endpoints
}

// endpoint is one daemon as this process sees it.
type endpoint struct {
	url      string
	client   *client.Client
	load     int // solves of this process
	answered time.Time
	failed   time.Time // when it last failed a solve
}

// openPool makes clients; it connects to nothing yet.
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

// acquire chooses a daemon that answers: for each attempt of a build another,
// if there are several, and rather one that did not fail just now. The caller
// gives it back. If all that are left to ask do not answer, the error is a
// *noDaemonError.
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

// take counts a solve on the daemon that is next in line for the key, nil if
// none is left.
func (p *pool) take(key string, attempt uint32, without map[*endpoint]bool) *endpoint {
	p.mu.Lock()
	defer p.mu.Unlock()
	var left []candidate
	for i, e := range p.daemons {
		if !without[e] {
			left = append(left, candidate{index: i, url: e.url, load: e.load, shunned: !e.failed.IsZero() && time.Since(e.failed) < shunTime})
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

// doubt notes that the daemon failed a solve: the next acquire asks whether it
// lives, and for a while prefers others.
func (p *pool) doubt(e *endpoint) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.answered, e.failed = time.Time{}, time.Now()
}

func (p *pool) check(ctx context.Context, e *endpoint) error {
	p.mu.Lock()
	trusted := time.Since(e.answered) < trustTime
	p.mu.Unlock()
	if trusted {
		return nil
	}
	if err := e.ping(ctx, pingTimeout); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e.answered = time.Now()
	return nil
}

// ping asks the daemon whether it can work.
func (e *endpoint) ping(ctx context.Context, timeout time.Duration) error {
	_, err := e.workers(ctx, timeout)
	return err
}

// workers asks the daemon for the ids of its workers, at least one.
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

// watch calls gone, once, when the daemon does not answer any more, and returns
// then or when ctx ends.
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
			gone(&silentError{fmt.Errorf("the BuildKit daemon %s does not answer any more: %w", e.url, err)})
			return
		}
	}
}

// silentError is the cause of a solve that was given up.
type silentError struct{ error }

// candidate is a daemon to choose.
type candidate struct {
	index int
	url   string
	load  int
	// shunned says that it failed a solve just now.
	shunned bool
}

// choose answers the index of the first candidate in the rendezvous order of
// the key whose load stays below 5/4 of the mean: the same key meets the same
// warm cache while no daemon is much busier than the others (consistent
// hashing with bounded loads, Mirrokni et al. 2016). Those that are shunned
// are chosen only if all are. A later attempt begins so much later in the
// order: what failed the first time may be the daemon, and the node that
// decides now need not be the one that saw it.
func choose(cs []candidate, key string, attempt uint32) int {
	if fit := slices.DeleteFunc(slices.Clone(cs), func(c candidate) bool { return c.shunned }); len(fit) > 0 {
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

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}
