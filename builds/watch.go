package builds

import (
	"context"
	"sync"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// BuildWatch follows one build. Only the latest version is kept, so that
// nobody who is slow holds up or costs anybody else.
type BuildWatch struct {
	store *Store
	id    string

	mu      sync.Mutex
	latest  *buildsv1.Record
	changed chan struct{} // capacity 1
}

// Watch follows the build of that id; it answers nil if there is none. The
// caller closes the watch.
func (s *Store) Watch(id string) *BuildWatch {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.state.Build(id)
	if r == nil {
		return nil
	}
	w := &BuildWatch{store: s, id: id, changed: make(chan struct{}, 1)}
	w.offer(r)
	if s.watches[id] == nil {
		s.watches[id] = map[*BuildWatch]struct{}{}
	}
	s.watches[id][w] = struct{}{}
	return w
}

// offer replaces what Next answers; nil says that the build is gone.
func (w *BuildWatch) offer(r *buildsv1.Record) {
	w.mu.Lock()
	w.latest = r
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// Next answers the newest version of the build that it did not answer before,
// and blocks until there is one. The terminal version is answered even if the
// history dropped the build meanwhile. ErrResubscribe says that a restored
// state does not know the build.
func (w *BuildWatch) Next(ctx context.Context) (*buildsv1.Record, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-w.changed:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.latest == nil {
		return nil, ErrResubscribe
	}
	return w.latest, nil
}

// Close ends the watch.
func (w *BuildWatch) Close() {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	set := w.store.watches[w.id]
	delete(set, w)
	if len(set) == 0 {
		delete(w.store.watches, w.id)
	}
}

// Wait blocks until done answers true for the build and answers that version.
func (s *Store) Wait(ctx context.Context, id string, done func(*buildsv1.Record) bool) (*buildsv1.Record, error) {
	w := s.Watch(id)
	if w == nil {
		return nil, ErrNotFound
	}
	defer w.Close()
	for {
		r, err := w.Next(ctx)
		if err != nil {
			return nil, err
		}
		if done(r) {
			return r, nil
		}
	}
}

// eventRing keeps the newest events for subscribers that trail behind.
type eventRing struct {
	mu      sync.Mutex
	events  []Event // ring; number n is at n % len
	first   uint64  // number of the oldest kept
	next    uint64  // number of the next
	cut     uint64  // events up to this index are not kept
	epoch   int     // grows with every reset
	arrived chan struct{}
}

func newEventRing(n int) *eventRing {
	return &eventRing{events: make([]Event, n), arrived: make(chan struct{})}
}

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

// reset forgets all events: the state was replaced by one at this index.
func (r *eventRing) reset(index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.events)
	r.first, r.next, r.cut = 0, 0, index
	r.epoch++
	r.wake()
}

// cutAt refuses those who come back with an earlier index.
func (r *eventRing) cutAt(index uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = index
}

func (r *eventRing) wake() {
	close(r.arrived)
	r.arrived = make(chan struct{})
}

// Subscription reads the events of all builds in order.
type Subscription struct {
	ring  *eventRing
	epoch int
	next  uint64
}

// Subscribe answers the state as it is now and a subscription to everything
// after it.
func (s *Store) Subscribe() (*State, *Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.events
	r.mu.Lock()
	defer r.mu.Unlock()
	return s.state.freeze(), &Subscription{ring: r, epoch: r.epoch, next: r.next}
}

// SubscribeAfter answers a subscription to everything after an index, or
// ErrResubscribe if that is no longer kept or lies ahead of this node.
func (s *Store) SubscribeAfter(index uint64) (*Subscription, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	r := s.events
	r.mu.Lock()
	defer r.mu.Unlock()
	if index < r.cut || index > s.state.index {
		return nil, ErrResubscribe
	}
	n := r.first
	for n < r.next && r.events[n%uint64(len(r.events))].Index <= index {
		n++
	}
	return &Subscription{ring: r, epoch: r.epoch, next: n}, nil
}

// Next answers the next event and blocks until there is one. A subscriber that
// fell too far behind gets ErrResubscribe.
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

// Latest answers the newest version without waiting, or nil if a restored
// state does not know the build.
func (w *BuildWatch) Latest() *buildsv1.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest
}

// Changed answers a channel that is closed at the next change of any build.
// Take it before looking at the state.
func (s *Store) Changed() <-chan struct{} {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	return s.events.arrived
}
