package verify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/client"
	"github.com/image-builder-ha/image-builder/verify/history"
)

// writers is the number of clients that request builds. Each has its own connections to all nodes.
const writers = 16

// Run generates load for Options.Duration, waits until all acknowledged builds have ended, and
// returns the evidence. It blocks until all clients have stopped. An error without evidence means
// that the run could not begin; if ctx ends, Run returns the evidence so far with the error of ctx.
// Run does not judge the cluster: Judge does.
func Run(ctx context.Context, o Options) (*Evidence, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	r := &run{
		opts: o, id: fmt.Sprintf("verify-%08x", rand.Uint32()), began: time.Now(),
		rec: history.NewRecorder(nil), canary: newCanary(), observations: map[observationKey][]Observation{},
	}
	defer r.close()
	if err := r.dial(); err != nil {
		return nil, err
	}
	if err := r.upload(ctx); err != nil {
		return nil, err
	}
	watching, stopWatching := context.WithCancel(ctx)
	var watches sync.WaitGroup
	for i := range r.pinned {
		watches.Go(func() { r.watch(watching, i) })
	}
	stopped := r.load(ctx)
	stopWatching()
	watches.Wait()
	r.readAgain(ctx)
	e := &Evidence{
		Run: RunInfo{
			Servers: o.Servers, Profile: o.Profile, Rate: o.Rate, Began: r.began, Stopped: stopped, Ended: time.Now(), Skipped: int(r.skipped.Load()),
		},
		Calls: r.rec.History(), Ends: r.ends, Logs: r.logs, Leaks: r.leaks, Faults: o.Faults.All(),
	}
	for _, k := range r.order {
		e.Observations = append(e.Observations, r.observations[k]...)
	}
	e.Images = r.checkImages(ctx)
	return e, ctx.Err()
}

// dial connects the clients.
func (r *run) dial() error {
	base := client.Options{TLS: r.opts.TLS, Dial: r.opts.Dial}
	for range writers {
		o := base
		o.Servers, o.Patience = r.opts.Servers, r.opts.Patience
		c, err := client.New(o)
		if err != nil {
			return err
		}
		r.all = append(r.all, c)
	}
	for _, s := range r.opts.Servers {
		o := base
		o.Servers, o.Patience = []string{s}, time.Millisecond
		c, err := client.New(o)
		if err != nil {
			return err
		}
		r.pinned = append(r.pinned, c)
	}
	return nil
}

// close ends the connections.
func (r *run) close() {
	for _, c := range r.all {
		_ = c.Close()
	}
	for _, c := range r.pinned {
		_ = c.Close()
	}
}

// load requests builds at the given rate for Options.Duration, and waits until all have ended or
// Options.Patience has passed. stopped is the time of the last request.
func (r *run) load(ctx context.Context) (stopped time.Time) {
	all, giveUp := context.WithTimeout(ctx, r.opts.Duration+r.opts.Patience)
	defer giveUp()
	var sessions sync.WaitGroup
	end := time.NewTimer(r.opts.Duration)
	defer end.Stop()
	report := time.NewTicker(10 * time.Second)
	defer report.Stop()
	every := time.NewTicker(max(time.Duration(float64(time.Second)/r.opts.Rate), time.Microsecond))
	defer every.Stop()
	for going := true; going; {
		select {
		case <-ctx.Done():
			going = false
		case <-end.C:
			going = false
		case <-report.C:
			r.opts.Progress.Info("in progress", "requested", r.requested.Load(), "acknowledged", r.acked.Load(), "ended", r.ended.Load(), "elapsed", time.Since(r.began).Round(time.Second))
		case <-every.C:
			if r.inFlight.Load() >= int64(r.opts.InFlight) {
				r.skipped.Add(1)
				continue
			}
			r.inFlight.Add(1)
			n := int(r.requested.Add(1))
			sessions.Go(func() {
				defer r.inFlight.Add(-1)
				r.session(all, n)
			})
		}
	}
	stopped = time.Now()
	r.opts.Progress.Info("stopped requesting builds", "requested", r.requested.Load(), "acknowledged", r.acked.Load(), "ended", r.ended.Load())
	sessions.Wait()
	return stopped
}
