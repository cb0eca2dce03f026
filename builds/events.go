package builds

import (
	"context"
	"sync"
)

// maxEvents is the number of events that are kept. A subscriber that is further behind has to start
// again with a snapshot.
const maxEvents = 8192

// eventRing keeps the newest events for subscribers that are behind. A slow subscriber never blocks
// publish: it loses events, and then gets ErrResubscribe.
type eventRing struct {
	mu      sync.Mutex
	events  []Event       // ring; event number n is at n % len
	first   uint64        // number of the oldest event
	next    uint64        // number of the next event
	cut     uint64        // events up to this index are not kept
	epoch   int           // grows with every reset
	arrived chan struct{} // closed and replaced at each event
}

func newEventRing(n int) *eventRing {
	return &eventRing{events: make([]Event, n), arrived: make(chan struct{})}
}

// publish appends an event and drops the oldest one if the ring is full.
func (r *eventRing) publish(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next-r.first == uint64(len(r.events)) {
		r.cut = r.events[r.first%uint64(len(r.events))].Index
		r.first++
	}
	r.events[r.next%uint64(len(r.events))] = e
	r.next++
	r.wake()
}

// reset drops all events, because a state at this index replaced the former one.
func (r *eventRing) reset(index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.events)
	r.first, r.next, r.cut = 0, 0, index
	r.epoch++
	r.wake()
}

// cutAt makes subscriptions that resume before an index fail.
func (r *eventRing) cutAt(index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = index
}

// wake wakes all waiters. mu is held.
func (r *eventRing) wake() {
	close(r.arrived)
	r.arrived = make(chan struct{})
}

// Subscription reads the events of all builds in order. It needs no Close.
type Subscription struct {
	ring  *eventRing
	epoch int
	next  uint64
}

// Next blocks until there is a next event and returns it. It returns ErrResubscribe if the
// subscriber is too far behind or the state was replaced.
func (s *Subscription) Next(ctx context.Context) (Event, error) {
	for {
		s.ring.mu.Lock()
		arrived := s.ring.arrived
		switch {
		case s.ring.epoch != s.epoch || s.next < s.ring.first:
			s.ring.mu.Unlock()
			return Event{}, ErrResubscribe
		case s.next < s.ring.next:
			e := s.ring.events[s.next%uint64(len(s.ring.events))]
			s.ring.mu.Unlock()
			s.next++
			return e, nil
		}
		s.ring.mu.Unlock()
		select {
		case <-ctx.Done():
			return Event{}, ctx.Err()
		case <-arrived:
		}
	}
}
