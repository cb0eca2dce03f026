package builds

import (
	"github.com/tidwall/btree"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Kind is a class of sources. All builds of a kind have the same runtime.
type Kind byte

// Kinds of sources.
const (
	KindRef Kind = iota
	KindDockerfile
	// Kinds is the number of kinds.
	Kinds
)

// KindOf returns the kind of a source.
func KindOf(src *imagebuilderv1.Source) Kind {
	if src.GetRef() != nil {
		return KindRef
	}
	return KindDockerfile
}

// schedule holds the tables that the decisions of the leader use, so that a decision reads only the
// builds that it concerns. They are derived from the records and from the time of the state. They
// are not replicated.
//
// A lane is the sequence of the builds of one kind and one requester that may start.
type schedule struct {
	ready     *btree.Map[string, *buildsv1.Record] // builds that may start, by lane and creation key
	heads     *btree.Map[string, *buildsv1.Record] // first build of each lane; see headKey
	delayed   *btree.Map[string, *buildsv1.Record] // queued builds that wait for a time, by time and id
	byOwner   *btree.Map[string, *buildsv1.Record] // live builds, by owner and id
	adoptable *btree.Map[string, *buildsv1.Record] // live builds whose workload outlives its node, by owner, store id and id
	expiring  *btree.Map[string, *buildsv1.Record] // live builds that nobody stops, by deadline and id
	stopping  *btree.Map[string, *buildsv1.Record] // live builds with a stop, by its time and id
	digested  *btree.Map[string, *buildsv1.Record] // active builds with a digest, by creation key
	active    *btree.Map[string, string]           // builds that have not ended, by creation key, to id
	logged    *tree[*entry]                        // ended builds with a sealed log, in the order of their ends
	running   *btree.Map[string, int]              // requester to number of live builds
	waiting   *btree.Map[string, int]              // requester to number of queued builds
	owned     *btree.Map[string, int]              // node name to number of live builds
	logBytes  int64                                // of all sealed logs
	copySets  *btree.Map[string, copySet]          // see countSet

	// laneHeads has the key in heads of each lane that has a build, and changed has the requesters
	// of which a lane has changed since settle was called. A frozen state has neither.
	laneHeads map[string]string
	changed   map[string]struct{}
}

// copySet counts the logs that have the same state, the same copies and the same wanted number of
// copies. There are few such sets, however many logs there are.
type copySet struct {
	// like has the fields of an attempt that all attempts of the set share: owner (only if no copies
	// are named), and state, copies and replicas of the log.
	like *imagebuilderv1.Attempt
	n    int
}

func newSchedule() schedule {
	return schedule{
		ready:     new(btree.Map[string, *buildsv1.Record]),
		heads:     new(btree.Map[string, *buildsv1.Record]),
		delayed:   new(btree.Map[string, *buildsv1.Record]),
		byOwner:   new(btree.Map[string, *buildsv1.Record]),
		adoptable: new(btree.Map[string, *buildsv1.Record]),
		expiring:  new(btree.Map[string, *buildsv1.Record]),
		stopping:  new(btree.Map[string, *buildsv1.Record]),
		digested:  new(btree.Map[string, *buildsv1.Record]),
		active:    new(btree.Map[string, string]),
		logged:    newTree(orderByEnd),
		running:   new(btree.Map[string, int]),
		waiting:   new(btree.Map[string, int]),
		owned:     new(btree.Map[string, int]),
		copySets:  new(btree.Map[string, copySet]),
		laneHeads: map[string]string{},
		changed:   map[string]struct{}{},
	}
}

// freeze returns a copy that later changes do not touch.
func (s schedule) freeze() schedule {
	s.ready = s.ready.Copy()
	s.heads = s.heads.Copy()
	s.delayed = s.delayed.Copy()
	s.byOwner = s.byOwner.Copy()
	s.adoptable = s.adoptable.Copy()
	s.expiring = s.expiring.Copy()
	s.stopping = s.stopping.Copy()
	s.digested = s.digested.Copy()
	s.active = s.active.Copy()
	s.logged = s.logged.Copy()
	s.running = s.running.Copy()
	s.waiting = s.waiting.Copy()
	s.owned = s.owned.Copy()
	s.copySets = s.copySets.Copy()
	s.laneHeads, s.changed = nil, nil
	return s
}
