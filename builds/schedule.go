package builds

import (
	"strings"

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

// schedule holds the tables that the leader decides by. They follow from the records and from the
// time of the state, so that a decision reads only what it is about. They are not replicated.
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

// places are the keys of a record in the tables of builds that have one phase or property. An empty
// key means that the record is not in the table.
type places struct {
	queued, deadline, live, sealing                        string
	ready, delayed, byOwner, adoptable, expiring, stopping string
	active, digested                                       string
	history, logged                                        bool
	logBytes                                               int64
}

// placesOf returns the places of a record at the time of the state. nil is in no table.
func (s *State) placesOf(r *buildsv1.Record) (p places) {
	if r == nil {
		return p
	}
	b := r.Build
	p.history = Terminal(b.Phase)
	for _, a := range b.Attempts {
		switch a.GetLog().GetState() {
		case LogSealing:
			p.sealing = b.Id
		case LogSealed:
			p.logged = p.history
			p.logBytes += a.Log.GetLength()
		}
	}
	if p.history {
		return p
	}
	created := createdKey(r)
	p.active = created
	if b.Digest != "" {
		p.digested = created
	}
	switch {
	case b.Phase == Queued:
		p.queued = created
		if s.deadlineRuns(r) {
			p.deadline = deadlineKey(r)
		}
		switch {
		case r.Successor:
		case b.NotBefore != nil && b.NotBefore.AsTime().UnixNano() > s.time:
			p.delayed = timeKey(b.NotBefore.AsTime().UnixNano()) + b.Id
		case b.Deadline.AsTime().UnixNano() > s.time:
			p.ready = laneKey(KindOf(b.Source), b.Requester) + created
		}
	case Live(b.Phase):
		a := LastAttempt(b)
		p.live = b.Id
		p.byOwner = pairKey(a.GetOwner(), b.Id)
		if a.GetAdoptable() {
			p.adoptable = pairKey(pairKey(a.Owner, a.OwnerStoreId), b.Id)
		}
		switch {
		case r.StopReason == buildsv1.StopReason_STOP_REASON_UNSPECIFIED:
			p.expiring = deadlineKey(r)
		case r.StopUnixNano != 0:
			p.stopping = timeKey(r.StopUnixNano) + b.Id
		}
	}
	return p
}

// reindex moves a build from the places of its record old to those of r. One of them, and its entry,
// may be nil.
func (s *State) reindex(former, next *entry, old, r *buildsv1.Record) {
	was, is := s.placesOf(old), s.placesOf(r)
	b := r.GetBuild()
	if b == nil {
		b = old.Build
	}
	move(s.queued, was.queued, is.queued, r)
	move(s.deadlines, was.deadline, is.deadline, r)
	move(s.live, was.live, is.live, r)
	move(s.sealing, was.sealing, is.sealing, r)
	move(s.delayed, was.delayed, is.delayed, r)
	move(s.byOwner, was.byOwner, is.byOwner, r)
	move(s.adoptable, was.adoptable, is.adoptable, r)
	move(s.expiring, was.expiring, is.expiring, r)
	move(s.stopping, was.stopping, is.stopping, r)
	move(s.digested, was.digested, is.digested, r)
	if was.active != is.active {
		move(s.active, was.active, is.active, b.Id)
	}
	moveEntry(s.logged, was.logged, is.logged, former, next)
	s.logBytes += is.logBytes - was.logBytes
	s.recount(old.GetBuild().GetAttempts(), r.GetBuild().GetAttempts())
	moveEntry(s.history, was.history, is.history, former, next)
	moveEntry(s.historyByRequester, was.history, is.history, former, next)
	if was.history != is.history {
		by := 1
		if was.history {
			by = -1
		}
		count(s.historyCount, b.Requester, by)
	}
	count(s.waiting, b.Requester, present(is.queued)-present(was.queued))
	count(s.running, b.Requester, present(is.live)-present(was.live))
	if was.live != "" {
		count(s.owned, LastAttempt(old.Build).GetOwner(), -1)
	}
	if is.live != "" {
		count(s.owned, LastAttempt(b).GetOwner(), 1)
	}
	move(s.ready, was.ready, is.ready, r)
	if was.ready != "" || is.ready != "" || was.live != is.live {
		s.changed[b.Requester] = struct{}{}
	}
}

// move replaces the key of an entry. An empty key stands for no entry.
func move[V any](t *btree.Map[string, V], was, is string, v V) {
	if was != "" && was != is {
		t.Delete(was)
	}
	if is != "" {
		t.Set(is, v)
	}
}

// moveEntry replaces the entry of a build in a table, where was and is report whether the two entries
// belong.
func moveEntry(t *tree[*entry], was, is bool, former, next *entry) {
	switch {
	case is:
		t.Set(next)
	case was:
		t.Delete(former)
	}
}

// present returns 1 if there is a key, else 0.
func present(key string) int {
	if key == "" {
		return 0
	}
	return 1
}

// count adds by to the number of a key. A number of 0 has no entry.
func count(t *btree.Map[string, int], key string, by int) {
	if by == 0 {
		return
	}
	n, _ := t.Get(key)
	if n += by; n > 0 {
		t.Set(key, n)
	} else {
		t.Delete(key)
	}
}

// elapse moves the builds that may start since the time has come, and removes those whose deadline
// has passed, between the times from and to. The state has the time to.
func (s *State) elapse(from, to int64) {
	if from == to {
		return
	}
	var due, ended []*buildsv1.Record
	until := timeKey(to + 1)
	s.delayed.Scan(func(key string, r *buildsv1.Record) bool {
		if key >= until {
			return false
		}
		due = append(due, r)
		return true
	})
	s.deadlines.Ascend(timeKey(from+1), func(key string, r *buildsv1.Record) bool {
		if key >= until {
			return false
		}
		ended = append(ended, r)
		return true
	})
	for _, r := range due {
		b := r.Build
		s.delayed.Delete(timeKey(b.NotBefore.AsTime().UnixNano()) + b.Id)
		if p := s.placesOf(r); p.ready != "" {
			s.ready.Set(p.ready, r)
			s.changed[b.Requester] = struct{}{}
		}
	}
	for _, r := range ended {
		b := r.Build
		if _, ok := s.ready.Delete(laneKey(KindOf(b.Source), b.Requester) + createdKey(r)); ok {
			s.changed[b.Requester] = struct{}{}
		}
	}
}

// settle updates the heads of the lanes that have changed. The state calls it at the end of each
// command.
func (s *State) settle() {
	for requester := range s.changed {
		n := s.Running(requester)
		for k := range Kinds {
			lane := laneKey(k, requester)
			head := s.FirstReady(k, requester)
			key := ""
			if head != nil {
				key = headKey(k, n, head)
			}
			move(s.heads, s.laneHeads[lane], key, head)
			if key == "" {
				delete(s.laneHeads, lane)
			} else {
				s.laneHeads[lane] = key
			}
		}
	}
	clear(s.changed)
}

// laneKey returns the prefix of the keys of a lane.
func laneKey(k Kind, requester string) string { return string(rune(k)) + requester + "\x00" }

// headKey returns the key of the first build of a lane: by kind, by the number of running builds of
// the requester, and by the order of creation.
func headKey(k Kind, running int, r *buildsv1.Record) string {
	return string(rune(k)) + orderKey(uint64(running)) + createdKey(r)
}

// timeKey encodes a time in nanoseconds since the Unix epoch so that the order of the bytes is that
// of the times.
func timeKey(nanos int64) string { return orderKey(uint64(max(nanos, 0))) }

// Running returns the number of live builds of a requester.
func (s *State) Running(requester string) int {
	n, _ := s.running.Get(requester)
	return n
}

// Waiting returns the number of queued builds of a requester.
func (s *State) Waiting(requester string) int {
	n, _ := s.waiting.Get(requester)
	return n
}

// Owned returns the number of live builds that a node owns.
func (s *State) Owned(node string) int {
	n, _ := s.owned.Get(node)
	return n
}

// FirstReady returns the oldest build of a kind and a requester that may start at the time of the
// state, or nil.
func (s *State) FirstReady(k Kind, requester string) *buildsv1.Record {
	return s.readyFrom(laneKey(k, requester), "")
}

// NextReady returns the oldest build of the kind and the requester of r that may start at the time
// of the state and was created after r, or nil.
func (s *State) NextReady(r *buildsv1.Record) *buildsv1.Record {
	return s.readyFrom(laneKey(KindOf(r.Build.Source), r.Build.Requester), createdKey(r)+"\x00")
}

func (s *State) readyFrom(lane, after string) (first *buildsv1.Record) {
	s.ready.Ascend(lane+after, func(key string, r *buildsv1.Record) bool {
		if strings.HasPrefix(key, lane) {
			first = r
		}
		return false
	})
	return first
}

// Heads iterates over the oldest build of each requester that may start, of one kind. The requester
// with the fewest running builds is first, and among equals that with the oldest build.
type Heads struct {
	kind    Kind
	started bool
	iter    btree.MapIter[string, *buildsv1.Record]
}

// Heads returns an iterator over a frozen state.
func (s *State) Heads(k Kind) *Heads { return &Heads{kind: k, iter: s.heads.Iter()} }

// Next returns the next build, or nil after the last one.
func (h *Heads) Next() *buildsv1.Record {
	ok := false
	if h.started {
		ok = h.iter.Next()
	} else {
		ok, h.started = h.iter.Seek(string(rune(h.kind))), true
	}
	if !ok || h.iter.Key()[0] != byte(h.kind) {
		return nil
	}
	return h.iter.Value()
}

// Delayed calls f with every queued build that waits for a time after that of the state, earliest
// first, until f returns false.
func (s *State) Delayed(f func(*buildsv1.Record) bool) {
	s.delayed.Scan(func(_ string, r *buildsv1.Record) bool { return f(r) })
}

// LiveByDeadline calls f with every live build that nobody stops, earliest deadline first, until f
// returns false.
func (s *State) LiveByDeadline(f func(*buildsv1.Record) bool) {
	s.expiring.Scan(func(_ string, r *buildsv1.Record) bool { return f(r) })
}

// Stopping calls f with every live build whose stop has a time, earliest first, until f returns
// false. Stops that were requested below RevokeLevel have none.
func (s *State) Stopping(f func(*buildsv1.Record) bool) {
	s.stopping.Scan(func(_ string, r *buildsv1.Record) bool { return f(r) })
}

// LiveOn calls f with every live build that a node owns, by id, until f returns false.
func (s *State) LiveOn(node string, f func(*buildsv1.Record) bool) {
	scanPrefix(s.byOwner, pairKey(node, ""), f)
}

// Owner is the data directory of a node that owns attempts.
type Owner struct{ Node, StoreID string }

// AdoptableOwners returns the owners of the live builds whose workload outlives its node.
func (s *State) AdoptableOwners() (out []Owner) {
	for pivot := ""; ; {
		n := len(out)
		s.adoptable.Ascend(pivot, func(_ string, r *buildsv1.Record) bool {
			a := LastAttempt(r.Build)
			out = append(out, Owner{a.Owner, a.OwnerStoreId})
			return false
		})
		if len(out) == n {
			return out
		}
		pivot = pairKey(out[n].Node, out[n].StoreID) + "\x01"
	}
}

// AdoptableOf calls f with every live build of an owner whose workload outlives its node, by id,
// until f returns false.
func (s *State) AdoptableOf(o Owner, f func(*buildsv1.Record) bool) {
	scanPrefix(s.adoptable, pairKey(pairKey(o.Node, o.StoreID), ""), f)
}

// Logged calls f with every ended build that has a sealed log, and the bytes of its logs, in the
// order in which the builds ended, until f returns false.
func (s *State) Logged(f func(r *buildsv1.Record, bytes int64) bool) {
	s.logged.Scan(func(e *entry) bool {
		r := e.get()
		return f(r, s.placesOf(r).logBytes)
	})
}

// WithSealedLog calls f with every build that has a sealed log, and with others that have not ended,
// until f returns false.
func (s *State) WithSealedLog(f func(*buildsv1.Record) bool) {
	more := true
	visit := func(r *buildsv1.Record) bool { more = f(r); return more }
	s.Queued(visit)
	if more {
		s.Live(visit)
	}
	if more {
		s.Logged(func(r *buildsv1.Record, _ int64) bool { return f(r) })
	}
}

// LogBytes returns the number of bytes of all sealed logs.
func (s *State) LogBytes() int64 { return s.logBytes }

func scanPrefix(t *btree.Map[string, *buildsv1.Record], prefix string, f func(*buildsv1.Record) bool) {
	t.Ascend(prefix, func(key string, r *buildsv1.Record) bool { return strings.HasPrefix(key, prefix) && f(r) })
}
