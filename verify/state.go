package verify

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/image-builder-ha/image-builder/client"
	"github.com/image-builder-ha/image-builder/verify/history"
)

// run is one run against a cluster.
type run struct {
	opts    Options
	id      string
	began   time.Time
	rec     *history.Recorder
	canary  canary
	all     []*client.Client // each is connected to all nodes
	pinned  []*client.Client // each is connected to one node and does not retry
	context string           // digest of the uploaded build context

	requested, acked, ended, skipped atomic.Int64
	inFlight                         atomic.Int64

	mu           sync.Mutex
	observations map[observationKey][]Observation
	order        []observationKey
	ends         []End
	logs         []LogRead
	leaks        []Leak
}

// observationKey identifies a version of a build.
type observationKey struct {
	build   string
	version uint64
}

// leaked records that the secret was found at a place, once per place.
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
