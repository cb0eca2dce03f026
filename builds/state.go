package builds

import (
	"slices"

	"github.com/tidwall/btree"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// stateHash is the hash of a state and its last checkpoints.
type stateHash struct {
	recordHasher
	kept []*clusterv1.Checkpoint // by ascending index, at most keptCheckpoints
	// skip is set after the state was replaced. The state may then have an index of another
	// history, under which other nodes have another hash.
	skip bool
}

// State holds the tables of the replicated state. Only Apply writes it. Its records are immutable:
// a change replaces the record. A State is not safe for concurrent use. Store guards it, and
// Store.View returns frozen copies.
type State struct {
	index    uint64
	time     int64
	level    uint32
	settings *buildsv1.Settings

	builds      *buildTable                          // by id
	activeByRef *btree.Map[string, string]           // ref to id of the active build
	successors  *btree.Map[string, string]           // ref to id of the build that waits for it
	newestByRef *btree.Map[string, string]           // ref to id of the newest build; empty from newestLevel on
	byRefAndID  *tree[*entry]                        // by hash of the ref, and by id; empty from creationOrderLevel on
	created     *tree[*entry]                        // in the order of creation
	byRef       *tree[*entry]                        // by hash of the ref, in the order of creation
	byRequester *tree[*entry]                        // by first requester, in the order of creation
	queued      *btree.Map[string, *buildsv1.Record] // by creation key, successors included
	live        *btree.Map[string, *buildsv1.Record] // by id
	sealing     *btree.Map[string, *buildsv1.Record] // by id: builds with a log that has to be sealed
	deadlines   *btree.Map[string, *buildsv1.Record] // queued builds by deadline and id; see deadlineRuns
	published   *tree[publication]                   // successes by hash of the target ref

	activeSet *ActiveSet

	history            *tree[*entry]           // ended builds in the order of their ends
	historyByRequester *tree[*entry]           // the same by first requester
	historyCount       *btree.Map[string, int] // requester to number of ended builds
	entries            *entryMaker             // nil in a frozen state

	requestLimit    int                        // maxRequests
	requests        *table[*buildsv1.Request]  // by requester and request id
	requestsByTime  *btree.Map[string, string] // time and key to key, of ids that callers chose
	generatedByTime *btree.Map[string, string] // time and key to key, of ids that the service generated

	cached      *table[*imagebuilderv1.CachedRef] // by CacheKey
	cacheConfig *buildsv1.CacheConfig
	nodes       *table[*buildsv1.Node] // by name

	schedule

	hash *stateHash // nil in a state that is not hashed
}

// NewState returns the state of a new cluster.
func NewState() *State {
	return &State{
		level:              1,
		settings:           initialSettings(),
		activeSet:          new(ActiveSet),
		builds:             newBuildTable(),
		activeByRef:        new(btree.Map[string, string]),
		successors:         new(btree.Map[string, string]),
		newestByRef:        new(btree.Map[string, string]),
		byRefAndID:         newTree(orderByRefAndID),
		created:            newTree(orderByCreation),
		byRef:              newTree(orderByRef),
		byRequester:        newTree(orderByRequester),
		queued:             new(btree.Map[string, *buildsv1.Record]),
		live:               new(btree.Map[string, *buildsv1.Record]),
		sealing:            new(btree.Map[string, *buildsv1.Record]),
		deadlines:          new(btree.Map[string, *buildsv1.Record]),
		published:          newTree(orderPublications),
		history:            newTree(orderByEnd),
		historyByRequester: newTree(orderByRequesterAndEnd),
		historyCount:       new(btree.Map[string, int]),
		entries:            newEntryMaker(),
		requestLimit:       maxRequests,
		requests:           newTable[*buildsv1.Request](),
		requestsByTime:     new(btree.Map[string, string]),
		generatedByTime:    new(btree.Map[string, string]),
		cacheConfig:        &buildsv1.CacheConfig{},
		cached:             newTable[*imagebuilderv1.CachedRef](),
		nodes:              newTable[*buildsv1.Node](),
		schedule:           newSchedule(),
	}
}

// freeze returns a copy that later changes do not touch. Its cost does not depend on the size of
// the state: the trees share their nodes until one of them is written.
func (s *State) freeze() *State {
	c := *s
	c.hash, c.entries = nil, nil
	c.builds = s.builds.Copy()
	c.activeByRef = s.activeByRef.Copy()
	c.successors = s.successors.Copy()
	c.newestByRef = s.newestByRef.Copy()
	c.byRefAndID = s.byRefAndID.Copy()
	c.created = s.created.Copy()
	c.byRef = s.byRef.Copy()
	c.byRequester = s.byRequester.Copy()
	c.queued = s.queued.Copy()
	c.live = s.live.Copy()
	c.sealing = s.sealing.Copy()
	c.deadlines = s.deadlines.Copy()
	c.published = s.published.Copy()
	c.history = s.history.Copy()
	c.historyByRequester = s.historyByRequester.Copy()
	c.historyCount = s.historyCount.Copy()
	c.requests = s.requests.Copy()
	c.requestsByTime = s.requestsByTime.Copy()
	c.generatedByTime = s.generatedByTime.Copy()
	c.cached = s.cached.Copy()
	c.nodes = s.nodes.Copy()
	c.schedule = s.schedule.freeze()
	return &c
}

// ActiveSet identifies the set of active builds together with those of their fields that never
// change. Two states with the same pointer list the same active builds.
type ActiveSet struct{ _ byte }

// ActiveSet returns the identity of the set of active builds. Each change of the set makes a new
// identity.
func (s *State) ActiveSet() *ActiveSet { return s.activeSet }

// Index returns the log index of the last applied command.
func (s *State) Index() uint64 { return s.index }

// Time returns the greatest applied time, in nanoseconds since the Unix epoch.
func (s *State) Time() int64 { return s.time }

// Settings returns the limits in force. The caller must not change the message.
func (s *State) Settings() *buildsv1.Settings { return s.settings }

// Level returns the committed feature level.
func (s *State) Level() uint32 { return s.level }

// StopsInBatches reports whether all nodes know StopOverdue.
func (s *State) StopsInBatches() bool { return s.level >= overdueLevel }

// KeepsWorkloads reports whether attempts record that their workload was created.
func (s *State) KeepsWorkloads() bool { return s.level >= workloadLevel }

// Build returns the record of a build, or nil.
func (s *State) Build(id string) *buildsv1.Record { return s.builds.Get(id) }

// Newest returns the build of a ref that was created last, or nil.
func (s *State) Newest(ref string) (r *buildsv1.Record) {
	if s.level < newestLevel {
		if id, ok := s.newestByRef.Get(ref); ok {
			r = s.Build(id)
		}
		return r
	}
	index, last := s.byRef, &entry{ref: refHash(ref), created: lastIndex}
	if s.level < creationOrderLevel {
		index, last = s.byRefAndID, entryAt("\xff")
		last.ref = refHash(ref)
	}
	index.Descend(last, func(e *entry) bool {
		if e.ref != last.ref {
			return false
		}
		if b := e.get(); b.Build.Ref == ref {
			r = b
		}
		return r == nil
	})
	return r
}

// Active returns the active build of a ref, or nil.
func (s *State) Active(ref string) *buildsv1.Record {
	id, ok := s.activeByRef.Get(ref)
	if !ok {
		return nil
	}
	return s.Build(id)
}

// Queued calls f with every queued build, oldest first, until f returns false.
func (s *State) Queued(f func(*buildsv1.Record) bool) {
	s.queued.Scan(func(_ string, r *buildsv1.Record) bool { return f(r) })
}

// QueuedByDeadline calls f with every queued build whose deadline runs, earliest deadline first,
// until f returns false. The deadline of a build that waits for another one does not run.
func (s *State) QueuedByDeadline(f func(*buildsv1.Record) bool) {
	s.deadlines.Scan(func(_ string, r *buildsv1.Record) bool { return f(r) })
}

// Live calls f with every build that has a live attempt, by id, until f returns false.
func (s *State) Live(f func(*buildsv1.Record) bool) {
	s.live.Scan(func(_ string, r *buildsv1.Record) bool { return f(r) })
}

// Sealing calls f with every build that has a log to seal, by id, until f returns false.
func (s *State) Sealing(f func(*buildsv1.Record) bool) {
	s.sealing.Scan(func(_ string, r *buildsv1.Record) bool { return f(r) })
}

// All calls f with every build, by id, until f returns false.
func (s *State) All(f func(*buildsv1.Record) bool) {
	s.builds.m.Scan(func(e *entry) bool { return f(e.get()) })
}

// Descend calls f with every build that was created before the build with the id before, newest
// first, until f returns false. If before is empty, it begins with the newest build. If the state
// does not have the build before any more, Descend calls f with the builds that have smaller ids.
// Below creationOrderLevel the order is that of the ids.
func (s *State) Descend(before string, f func(*buildsv1.Record) bool) {
	last, visit := s.visitor(before, f)
	switch {
	case s.level < creationOrderLevel && before != "":
		s.builds.m.Descend(entryAt(before), visit)
	case s.level < creationOrderLevel:
		s.builds.m.Reverse(visit)
	case last != nil:
		s.created.Descend(last, visit)
	default:
		s.created.Reverse(visit)
	}
}

// visitor returns the build with the id before, or nil, and a function that calls f with builds. It
// leaves out that build and, if the state does not have it, those with greater ids.
func (s *State) visitor(before string, f func(*buildsv1.Record) bool) (last *entry, visit func(*entry) bool) {
	if before == "" {
		return nil, func(e *entry) bool { return f(e.get()) }
	}
	last = s.builds.entry(before)
	at := entryAt(before)
	return last, func(e *entry) bool {
		if c := compareIDs(e, at); c == 0 || last == nil && c > 0 {
			return true
		}
		return f(e.get())
	}
}

// Node returns the record of a node, or nil.
func (s *State) Node(name string) *buildsv1.Node {
	n, _ := s.nodes.Get(name)
	return n
}

// Nodes calls f with every node that has started and was not removed, by name, until f returns
// false.
func (s *State) Nodes(f func(*buildsv1.Node) bool) {
	s.nodes.Scan(func(_ string, n *buildsv1.Node) bool { return f(n) })
}

// Request returns the record of a request id, or nil.
func (s *State) Request(requester, id string) *buildsv1.Request {
	r, _ := s.requests.Get(pairKey(requester, id))
	return r
}

// SealingKeys returns the ids of the keys that sealed the secrets of active builds.
func (s *State) SealingKeys() (ids []string) {
	add := func(r *buildsv1.Record) bool {
		if id := r.Secrets.GetKeyId(); id != "" && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
		return true
	}
	s.Queued(add)
	s.Live(add)
	return ids
}

// Counts are the sizes of tables. History counts the ended builds.
type Counts struct {
	Builds, Queued, Live, History, Requests int
}

// Counts returns the sizes of the tables.
func (s *State) Counts() Counts {
	return Counts{s.builds.Len(), s.queued.Len(), s.live.Len(), s.history.Len(), s.requests.Len()}
}

// maxRequests is how many request ids the state keeps. An id that a caller chose stays for its
// whole age (Settings.request_id_age_nanos), so that a repeated request gets the same build. If the
// table is full, ids that the service generated make room. If there are none, new requests are
// refused.
const maxRequests = 1_000_000
