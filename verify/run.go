package verify

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/image-builder-ha/image-builder/client"
	"github.com/image-builder-ha/image-builder/verify/history"
)

// writers is how many clients ask for builds, each with connections of its own
// to all nodes.
const writers = 16

// run is one run against a cluster.
type run struct {
	o       Options
	id      string
	began   time.Time
	rec     *history.Recorder
	canary  canary
	all     []*client.Client // each knows all nodes
	pinned  []*client.Client // each knows one, and does not try again
	context string           // digest of the uploaded build context

	asked, acked, ended, skipped atomic.Int64
	underway                     atomic.Int64

	mu     sync.Mutex
	sights map[sightKey][]Sight
	order  []sightKey
	ends   []End
	logs   []LogRead
	leaks  []Leak
}

type sightKey struct {
	build   string
	version uint64
}

// Run drives load against a cluster for as long as the options say, waits until
// all acknowledged builds have ended, and answers what was seen. An error says
// that nothing could be seen; what is wrong with the cluster is for Judge.
func Run(ctx context.Context, o Options) (*Evidence, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	r := &run{
		o: o, id: fmt.Sprintf("verify-%08x", rand.Uint32()), began: time.Now(),
		rec: history.NewRecorder(nil), canary: newCanary(), sights: map[sightKey][]Sight{},
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
		e.Sights = append(e.Sights, r.sights[k]...)
	}
	e.Images = r.look(ctx)
	return e, ctx.Err()
}

func (r *run) dial() error {
	base := client.Options{TLS: r.o.TLS, Dial: r.o.Dial}
	for range writers {
		o := base
		o.Servers, o.Patience = r.o.Servers, r.o.Patience
		c, err := client.New(o)
		if err != nil {
			return err
		}
		r.all = append(r.all, c)
	}
	for _, s := range r.o.Servers {
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

func (r *run) close() {
	for _, c := range r.all {
		_ = c.Close()
	}
	for _, c := range r.pinned {
		_ = c.Close()
	}
}

// load asks for builds at the rate until the duration is over, and waits until
// all have ended or the patience is over.
func (r *run) load(ctx context.Context) (stopped time.Time) {
	all, giveUp := context.WithTimeout(ctx, r.o.Duration+r.o.Patience)
	defer giveUp()
	var lives sync.WaitGroup
	end := time.NewTimer(r.o.Duration)
	defer end.Stop()
	report := time.NewTicker(10 * time.Second)
	defer report.Stop()
	every := time.NewTicker(max(time.Duration(float64(time.Second)/r.o.Rate), time.Microsecond))
	defer every.Stop()
	for going := true; going; {
		select {
		case <-ctx.Done():
			going = false
		case <-end.C:
			going = false
		case <-report.C:
			r.o.Progress.Info("goes on", "asked", r.asked.Load(), "acknowledged", r.acked.Load(), "ended", r.ended.Load(), "for", time.Since(r.began).Round(time.Second))
		case <-every.C:
			if r.underway.Load() >= int64(r.o.InFlight) {
				r.skipped.Add(1)
				continue
			}
			r.underway.Add(1)
			n := int(r.asked.Add(1))
			lives.Go(func() {
				defer r.underway.Add(-1)
				r.life(all, n)
			})
		}
	}
	stopped = time.Now()
	r.o.Progress.Info("asks for no more", "asked", r.asked.Load(), "acknowledged", r.acked.Load(), "ended", r.ended.Load())
	lives.Wait()
	return stopped
}

// leaked notes that the secret was found, once per place.
func (r *run) leaked(where, build string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.leaks {
		if l.Where == where {
			return
		}
	}
	r.leaks = append(r.leaks, Leak{where, build, time.Now()})
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
