package builds

import (
	"io"
	"sync"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// eventsKept is how many commands a watcher may trail behind before it has to
// start again with a snapshot.
const eventsKept = 8192

// Store is the State behind a lock, with watchers. It is the state machine
// that the Raft adapter drives. Safe for concurrent use; no reader can block
// Apply for longer than a table look-up.
type Store struct {
	mu      sync.RWMutex
	state   *State
	events  *eventRing
	watches map[string]map[*BuildWatch]struct{}
	tally   Tally
	cached  signal
	// restored: no command was applied since the state was replaced.
	restored bool
}

// Tally counts what this process has brought about, once in the cluster each.
type Tally struct {
	// Mine reports whether this process has proposed the command.
	Mine func(index uint64, cmd *clusterv1.Command) bool
	// Created and Ended are called for builds that such a command has created
	// or ended. They must not block.
	Created func(*imagebuilderv1.Build)
	Ended   func(*buildsv1.Record)
	// Published is called for every build that has succeeded, whoever has
	// proposed the command; nil for nobody. It must not block.
	Published func(*imagebuilderv1.Build)
	// Requested is called for every cached reference that was asked to be
	// resolved anew, by whoever; nil for nobody. It must not block.
	Requested func(ref string)
}

// Count sets what counts. It is called before the first command is applied.
func (s *Store) Count(t Tally) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tally = t
}

// count looks for builds that the command has created or ended.
func (t Tally) count(index uint64, cmd *clusterv1.Command, changed []*buildsv1.Record) {
	for _, r := range changed {
		if t.Published != nil && r.EndedIndex == index && r.Build.Phase == Succeeded {
			t.Published(r.Build)
		}
	}
	if t.Mine == nil || len(changed) == 0 || !t.Mine(index, cmd) {
		return
	}
	for _, r := range changed {
		if r.CreatedIndex == index {
			t.Created(r.Build)
		}
		if r.EndedIndex == index {
			t.Ended(r)
		}
	}
}

// NewStore answers a store with an empty state.
func NewStore() *Store {
	return &Store{
		state:   NewState(),
		events:  newEventRing(eventsKept),
		watches: map[string]map[*BuildWatch]struct{}{},
		cached:  newSignal(),
	}
}

// Apply applies one command of the replicated log and tells the watchers. The
// answer is a Result, or an error with Fatal() true if the node must stop.
func (s *Store) Apply(index uint64, cmd *clusterv1.Command) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.state.index
	res, ev, err := s.state.Apply(index, cmd)
	if err != nil {
		return err
	}
	if s.restored && index > before+1 {
		// What was in between may have been another history, of which watchers
		// that come back know.
		s.events.cutAt(index)
	}
	s.restored = false
	for _, r := range ev.Changed {
		for w := range s.watches[r.Build.Id] {
			w.offer(r)
		}
	}
	s.tally.count(index, cmd, ev.Changed)
	if s.tally.Requested != nil {
		for _, ref := range ev.Requested {
			s.tally.Requested(ref)
		}
	}
	if ev.Cached || ev.Cluster {
		s.cached.fire()
	}
	if len(ev.Changed)+len(ev.Removed) > 0 || ev.Cluster {
		s.events.publish(ev)
	}
	return res
}

// LastTime is the greatest applied time, nanoseconds since the Unix epoch.
func (s *Store) LastTime() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.time
}

// Read calls f with the state while no command is applied. f must be short and
// must not keep the state; records that it got may be kept.
func (s *Store) Read(f func(*State)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	f(s.state)
}

// View answers the state as it is now. Later commands do not change it, so it
// may be read for as long as one likes.
func (s *Store) View() *State {
	s.mu.Lock() // copying marks the trees as shared
	defer s.mu.Unlock()
	return s.state.freeze()
}

// Build answers the record of a build, or nil.
func (s *Store) Build(id string) *buildsv1.Record {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.Build(id)
}

// Snapshot answers the state as it is now, to be written while commands go on.
func (s *Store) Snapshot() (io.WriterTo, error) {
	return snapshot{s.View()}, nil
}

// Restore replaces the state by a snapshot. Nothing changes if the snapshot
// cannot be read. All subscriptions end with ErrResubscribe.
func (s *Store) Restore(r io.Reader) error {
	state, err := readSnapshot(r)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
	s.cached.fire()
	s.events.reset(state.index)
	s.restored = true
	for id, set := range s.watches {
		for w := range set {
			w.offer(state.Build(id))
		}
	}
	return nil
}
