package builds

import (
	"github.com/tidwall/btree"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

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

// moveEntry replaces the entry of a build in a table. was and is report whether the former and the
// next entry belong in the table.
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
