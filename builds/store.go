package builds

import (
	"context"
	"io"
	"slices"
	"sync"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Store is the State behind a lock, with watchers. It is the state machine of the replicated log.
// It is safe for concurrent use, and no reader blocks Apply for longer than a table lookup.
type Store struct {
	mu      sync.RWMutex
	state   *State
	events  *eventRing
	watches map[string]map[*BuildWatch]struct{} // by build id
	hooks   Hooks
	cached  signal // cached references, nodes or the feature level changed
	// restored reports that no command was applied since the state was replaced.
	restored bool
}

// NewStore returns a store with an empty state.
func NewStore() *Store {
	state := NewState()
	state.track()
	return &Store{
		state:   state,
		events:  newEventRing(maxEvents),
		watches: map[string]map[*BuildWatch]struct{}{},
		cached:  newSignal(),
	}
}

// SetHooks sets the functions that are called while commands are applied. The caller sets them
// before the first command.
func (s *Store) SetHooks(h Hooks) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hooks = h
}

// Apply applies one command of the replicated log and wakes the watchers. It returns a Result, or
// an error whose method Fatal returns true if the node must stop.
func (s *Store) Apply(index uint64, cmd *clusterv1.Command) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.state.index
	res, ev, err := s.state.Apply(index, cmd)
	if err != nil {
		return err
	}
	s.state.injectDivergence()
	if s.restored && index > before+1 {
		// The indexes between the snapshot and this command may belong to another history, which
		// watchers that resume may have seen.
		s.events.cutAt(index)
	}
	s.restored = false
	for _, r := range ev.Changed {
		for w := range s.watches[r.Build.Id] {
			w.set(r)
		}
	}
	s.hooks.call(index, cmd, ev)
	if ev.Cached || ev.Cluster {
		s.cached.fire()
	}
	if len(ev.Changed)+len(ev.Removed) > 0 || ev.Cluster {
		s.events.publish(ev)
	}
	return res
}

// LastTime returns the greatest applied time, in nanoseconds since the Unix epoch.
func (s *Store) LastTime() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.time
}

// Read calls f with the state. No command is applied meanwhile, so f must be short. f must not keep
// the state, but may keep records.
func (s *Store) Read(f func(*State)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	f(s.state)
}

// View returns the state as it is now. Later commands do not change it, so the caller may read it
// for any time.
func (s *Store) View() *State {
	s.mu.Lock() // freeze marks the trees as shared
	defer s.mu.Unlock()
	return s.state.freeze()
}

// Build returns the record of a build, or nil.
func (s *Store) Build(id string) *buildsv1.Record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.Build(id)
}

// Snapshot returns the state as it is now. The caller may write it while commands are applied. The
// hash of the state follows the records that are written; see correctSums.
func (s *Store) Snapshot() (io.WriterTo, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	state, sums := s.state, s.state.tableSums()
	return snapshot{state.freeze(), func(got tableSums) { s.correctSums(state, sums, got) }}, nil
}

// Restore replaces the state by a snapshot. It changes nothing if the snapshot cannot be read. All
// subscriptions end with ErrResubscribe.
func (s *Store) Restore(r io.Reader) error {
	state, err := readSnapshot(r)
	if err != nil {
		return err
	}
	state.track()
	state.hash.skip = true
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
	s.cached.fire()
	s.events.reset(state.index)
	s.restored = true
	for id, set := range s.watches {
		for w := range set {
			w.set(state.Build(id))
		}
	}
	return nil
}

// Watch follows a build. It returns nil if the build does not exist. The caller closes the watch.
func (s *Store) Watch(id string) *BuildWatch {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.state.Build(id)
	if r == nil {
		return nil
	}
	w := newBuildWatch(func(w *BuildWatch) { s.unwatch(id, w) })
	w.set(r)
	if s.watches[id] == nil {
		s.watches[id] = map[*BuildWatch]struct{}{}
	}
	s.watches[id][w] = struct{}{}
	return w
}

// unwatch removes a watch.
func (s *Store) unwatch(id string, w *BuildWatch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.watches[id]
	delete(set, w)
	if len(set) == 0 {
		delete(s.watches, id)
	}
}

// Wait blocks until done returns true for the build, and returns that version. It returns
// ErrNotFound if the build does not exist.
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

// Subscribe returns the state as it is now, and a subscription to all later events.
func (s *Store) Subscribe() (*State, *Subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.events
	r.mu.Lock()
	defer r.mu.Unlock()
	return s.state.freeze(), &Subscription{ring: r, epoch: r.epoch, next: r.next}
}

// SubscribeAfter returns a subscription to all events after an index. It returns ErrResubscribe if
// these events are no longer kept, or if this node has not applied the index yet.
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

// Changed returns a channel that is closed at the next change of any build, node or setting. The
// caller takes it before it reads the state.
func (s *Store) Changed() <-chan struct{} {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	return s.events.arrived
}

// CachedChanged returns a channel that is closed at the next change of the cached references, the
// nodes, the settings or the feature level. The caller takes it before it reads the state.
func (s *Store) CachedChanged() <-chan struct{} { return s.cached.next() }

// Checkpoints returns the hashes of the state at the last checkpoints since the state was replaced
// by a snapshot, by ascending index. The caller must not change them.
func (s *Store) Checkpoints() []*clusterv1.Checkpoint {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.state.hash.kept)
}

// correctSums corrects the sums of a state by those of the records that a snapshot of it has. They
// are equal unless a record has changed in place, by a defect of the service or of the memory. Such
// a change is in no sum, because sums follow the commands. After the correction the next checkpoint
// differs from that of the other nodes.
func (s *Store) correctSums(state *State, want, got tableSums) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != state {
		return
	}
	for i, sum := range []*uint64{&state.builds.sum, &state.requests.sum, &state.cached.sum, &state.nodes.sum} {
		*sum += got[i] - want[i]
	}
}
