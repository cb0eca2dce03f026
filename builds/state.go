package builds

import (
	"fmt"
	"slices"

	"github.com/tidwall/btree"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// State holds the tables of the replicated state. It is written by Apply only;
// records in it are immutable, a change replaces the record. A State is not
// safe for concurrent use: Store guards it, View hands out frozen copies.
type State struct {
	index    uint64
	time     int64
	level    uint32
	settings *buildsv1.Settings

	builds     *btree.Map[string, *buildsv1.Record] // by id; UUIDv7, so by time
	current    *btree.Map[string, string]           // ref to the active build
	successors *btree.Map[string, string]           // ref to the one that waits for it
	newest     *btree.Map[string, string]           // ref to the build asked for last; below byRefLevel
	byRef      *btree.Map[string, string]           // ref, id to id
	queued     *btree.Map[string, *buildsv1.Record] // by id, successors included
	live       *btree.Map[string, *buildsv1.Record] // by id
	sealing    *btree.Map[string, *buildsv1.Record] // by id: some log waits for its seal
	liveBy     *btree.Map[string, int]              // requester to live builds
	deadlines  *btree.Map[string, *buildsv1.Record] // queued ones by deadline and id

	active *ActiveSet // another one whenever what is listed of active builds changes

	history            *btree.Map[string, string] // end index to id
	historyByRequester *btree.Map[string, string] // requester, end index to id
	historyCount       *btree.Map[string, int]    // requester to ended builds

	requests       *btree.Map[string, *buildsv1.Request] // requester, request id
	requestsByTime *btree.Map[string, string]            // time, key to key; of those that callers chose
	madeByTime     *btree.Map[string, string]            // the same of those that the service made

	cached   *btree.Map[string, *imagebuilderv1.CachedRef] // by normalised reference
	cacheFor *buildsv1.CacheConfig
	nodes    *btree.Map[string, *buildsv1.Node]
}

// ActiveSet identifies the set of active builds together with the facts about them that never change. Two
// states with the same pointer list the same active builds.
type ActiveSet struct{ _ byte }

// ActiveSet returns the identity of the set of active builds. It changes, and never comes back,
// whenever a list of the active builds changes.
func (s *State) ActiveSet() *ActiveSet { return s.active }

// NewState answers the state of a cluster in which nothing happened yet.
func NewState() *State {
	return &State{
		level:              1,
		settings:           DefaultSettings(),
		active:             new(ActiveSet),
		builds:             new(btree.Map[string, *buildsv1.Record]),
		current:            new(btree.Map[string, string]),
		successors:         new(btree.Map[string, string]),
		newest:             new(btree.Map[string, string]),
		byRef:              new(btree.Map[string, string]),
		queued:             new(btree.Map[string, *buildsv1.Record]),
		live:               new(btree.Map[string, *buildsv1.Record]),
		sealing:            new(btree.Map[string, *buildsv1.Record]),
		liveBy:             new(btree.Map[string, int]),
		deadlines:          new(btree.Map[string, *buildsv1.Record]),
		history:            new(btree.Map[string, string]),
		historyByRequester: new(btree.Map[string, string]),
		historyCount:       new(btree.Map[string, int]),
		requests:           new(btree.Map[string, *buildsv1.Request]),
		requestsByTime:     new(btree.Map[string, string]),
		madeByTime:         new(btree.Map[string, string]),
		cacheFor:           &buildsv1.CacheConfig{},
		cached:             new(btree.Map[string, *imagebuilderv1.CachedRef]),
		nodes:              new(btree.Map[string, *buildsv1.Node]),
	}
}

// freeze answers a copy that later changes do not touch. It costs a few
// allocations whatever the size: the trees share nodes until one is written.
func (s *State) freeze() *State {
	c := *s
	c.builds = s.builds.Copy()
	c.current = s.current.Copy()
	c.successors = s.successors.Copy()
	c.newest = s.newest.Copy()
	c.byRef = s.byRef.Copy()
	c.queued = s.queued.Copy()
	c.live = s.live.Copy()
	c.sealing = s.sealing.Copy()
	c.liveBy = s.liveBy.Copy()
	c.deadlines = s.deadlines.Copy()
	c.history = s.history.Copy()
	c.historyByRequester = s.historyByRequester.Copy()
	c.historyCount = s.historyCount.Copy()
	c.requests = s.requests.Copy()
	c.requestsByTime = s.requestsByTime.Copy()
	c.madeByTime = s.madeByTime.Copy()
	c.cached = s.cached.Copy()
	c.nodes = s.nodes.Copy()
	return &c
}

// Index is the log index of the last applied command.
func (s *State) Index() uint64 { return s.index }

// Time is the greatest applied time, nanoseconds since the Unix epoch.
func (s *State) Time() int64 { return s.time }

// Settings answers the limits in force. The message must not be changed.
func (s *State) Settings() *buildsv1.Settings { return s.settings }

// Level is the committed feature level.
func (s *State) Level() uint32 { return s.level }

// Build answers the record of a build, or nil.
func (s *State) Build(id string) *buildsv1.Record {
	r, _ := s.builds.Get(id)
	return r
}

// byRefLevel is the feature level from which on the build of a ref that was
// asked for last is looked for among all that there are. Older versions did not
// know the one before it once it was removed, until they read a snapshot.
const byRefLevel = 4

// Newest answers the build of a ref that was asked for last, or nil.
func (s *State) Newest(ref string) (r *buildsv1.Record) {
	if s.level < byRefLevel {
		if id, ok := s.newest.Get(ref); ok {
			r = s.Build(id)
		}
		return r
	}
	s.byRef.Descend(pairKey(ref, "\xff"), func(key, id string) bool {
		if key == pairKey(ref, id) {
			r = s.Build(id)
		}
		return false
	})
	return r
}

// Active answers the active build of a ref, or nil.
func (s *State) Active(ref string) *buildsv1.Record {
	id, ok := s.current.Get(ref)
	if !ok {
		return nil
	}
	return s.Build(id)
}

// Queued calls f with every queued build, oldest first, until it returns false.
func (s *State) Queued(f func(*buildsv1.Record) bool) {
	s.queued.Scan(func(_ string, r *buildsv1.Record) bool { return f(r) })
}

// QueuedByDeadline calls f with every queued build, the one that has to end
// first first, until it returns false.
func (s *State) QueuedByDeadline(f func(*buildsv1.Record) bool) {
	s.deadlines.Scan(func(_ string, r *buildsv1.Record) bool { return f(r) })
}

// Live calls f with every build that has a live attempt, oldest first.
func (s *State) Live(f func(*buildsv1.Record) bool) {
	s.live.Scan(func(_ string, r *buildsv1.Record) bool { return f(r) })
}

// Sealing calls f with every build that has a log to seal, oldest first.
func (s *State) Sealing(f func(*buildsv1.Record) bool) {
	s.sealing.Scan(func(_ string, r *buildsv1.Record) bool { return f(r) })
}

// All calls f with every build, oldest first, until it returns false.
func (s *State) All(f func(*buildsv1.Record) bool) {
	s.builds.Scan(func(_ string, r *buildsv1.Record) bool { return f(r) })
}

// Descend calls f with builds newest first, from those before the given id on
// ("" begins with the newest).
func (s *State) Descend(before string, f func(*buildsv1.Record) bool) {
	visit := func(id string, r *buildsv1.Record) bool {
		if id == before {
			return true
		}
		return f(r)
	}
	if before == "" {
		s.builds.Reverse(visit)
		return
	}
	s.builds.Descend(before, visit)
}

// Node answers what is known of a node, or nil.
func (s *State) Node(name string) *buildsv1.Node {
	n, _ := s.nodes.Get(name)
	return n
}

// Nodes calls f with every node that ever started, by name.
func (s *State) Nodes(f func(*buildsv1.Node) bool) {
	s.nodes.Scan(func(_ string, n *buildsv1.Node) bool { return f(n) })
}

// Request answers what a request id was used for, or nil.
func (s *State) Request(requester, id string) *buildsv1.Request {
	r, _ := s.requests.Get(pairKey(requester, id))
	return r
}

// Counts are the sizes of the tables.
type Counts struct {
	Builds, Queued, Live, History, Requests int
}

// Counts answers the sizes of the tables.
func (s *State) Counts() Counts {
	return Counts{s.builds.Len(), s.queued.Len(), s.live.Len(), s.history.Len(), s.requests.Len()}
}

// pairKey joins two strings so that no two pairs share a key: validation
// refuses NUL in both.
func pairKey(a, b string) string { return a + "\x00" + b }

// orderKey renders a number so that byte order is its order.
func orderKey(n uint64) string { return fmt.Sprintf("%016x", n) }

// SealingKeys answers the ids of the keys that sealed the secrets of active
// builds.
func (s *State) SealingKeys() (ids []string) {
	see := func(r *buildsv1.Record) bool {
		if id := r.Secrets.GetKeyId(); id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
		return true
	}
	s.Queued(see)
	s.Live(see)
	return ids
}
