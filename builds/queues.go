package builds

import (
	"strings"

	"github.com/tidwall/btree"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

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
