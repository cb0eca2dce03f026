package scheduler

import (
	"slices"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/placement"
)

// rules are the inputs of a decision beside the state.
type rules struct {
	// alive reports whether a node can get attempts now.
	alive func(*buildsv1.Node) bool
	// runtime returns the name of the runtime for a source, or "" if there is none.
	runtime func(*imagebuilderv1.Source) string
	// adoptable reports whether the workloads of a runtime outlive their node.
	adoptable func(runtime string) bool
	// replicas is the number of nodes that hold each log. It is 0 in a state of feature level 1.
	replicas int
}

// holders are the nodes that can hold the logs of new attempts now.
type holders struct {
	alive []*buildsv1.Node
	// drained are the nodes that could run attempts if they were not drained. They hold a copy only
	// if a log would have no second one otherwise.
	drained []*buildsv1.Node
	known   int // number of nodes that are not lost
}

// copies returns the nodes that hold the log of a new attempt, the owner first. It returns nil if
// too few nodes can hold a copy now.
func (r rules) copies(owner *buildsv1.Node, h holders, key string) []*imagebuilderv1.LogCopy {
	out := []*imagebuilderv1.LogCopy{placement.CopyOf(owner)}
	add := func(from []*buildsv1.Node, want int) {
		for len(out) < want {
			n := placement.ChooseCopy(from, out, key)
			if n == nil {
				return
			}
			out = append(out, placement.CopyOf(n))
		}
	}
	add(h.alive, r.replicas)
	least := min(2, r.replicas, h.known)
	add(h.drained, least)
	if len(out) < least {
		return nil // readers could see no byte of the log
	}
	return out
}

// decide returns the changes that are due now. It chooses queued builds fairly among requesters,
// the oldest build of each first, and for each build the least loaded node that has the runtime. It
// is pure. Its work depends on the changes that are due and on the number of nodes, but not on the
// number of builds.
func decide(s *builds.State, now time.Time, r rules) decision {
	var d decision
	if t := time.Unix(0, s.Time()); now.Before(t) {
		now = t // a command has this time at least
	}
	d.later(historyDue(s, now, &d))
	d.deadlines(s, now)
	d.unstopped(s, now)
	d.pauses(s, now)
	slots := load(s, r)
	if s.Level() < 2 {
		r.replicas = 0
	}
	h := nodes(s, r, slots)
	c := s.Counts()
	if len(h.alive) < h.known && c.Queued > 0 {
		d.later(now.Add(recheckInterval))
	}
	d.adopt(s, slots, h.drained)
	room := 0
	for _, sl := range slots {
		room += max(sl.free, 0)
	}
	if limit := int(s.Settings().RunningTotal); limit > 0 {
		room = min(room, limit-c.Live)
	}
	d.start(s, now, r, slots, h, min(room, maxAssigned))
	return d
}

// start assigns up to room queued builds to nodes.
func (d *decision) start(s *builds.State, now time.Time, r rules, slots []*slot, h holders, room int) {
	if room <= 0 {
		return
	}
	t := newTurns(s, now)
	full := map[string]bool{} // runtimes without a free place
	for room > 0 {
		q := t.next()
		if q == nil {
			return
		}
		b := q.Build
		name := r.runtime(b.Source)
		var sl *slot
		if !full[name] {
			sl = place(slots, name, locality(b.Source), failedOn(b))
		}
		if sl == nil {
			full[name] = true
			t.pass()
			continue
		}
		a := &buildsv1.AssignAttempt_Assignment{
			BuildId:      b.Id,
			Attempt:      uint32(len(b.Attempts) + 1),
			Owner:        sl.node.Name,
			OwnerStoreId: sl.node.StoreId,
			Epoch:        builds.MaxEpoch(b) + 1,
			BuildVersion: b.Version,
			Runtime:      name,
		}
		if r.replicas > 0 {
			a.Replicas, a.Adoptable = uint32(r.replicas), r.adoptable(name)
			if a.Copies = r.copies(sl.node, h, b.Id); a.Copies == nil {
				return // no second node can hold a log now
			}
		}
		sl.free--
		sl.used++
		room--
		t.take()
		d.assign = append(d.assign, a)
	}
}

// adopt assigns attempts to other nodes if their owner is lost, removed, drained or about to stop
// and their workload outlives it. The new owner must have the runtime and a copy of the log. adopt
// chooses the least loaded one, and a drained one only if the owner does not run.
func (d *decision) adopt(s *builds.State, slots []*slot, drained []*buildsv1.Node) {
	if s.Level() < 2 {
		return
	}
	for _, o := range s.AdoptableOwners() {
		n := s.Node(o.Node)
		runs := n != nil && n.StoreId == o.StoreID && !n.Lost
		if runs && !n.Stopping && !n.Drained {
			continue
		}
		if len(d.reassign) >= maxAssigned {
			return
		}
		s.AdoptableOf(o, func(q *buildsv1.Record) bool {
			d.reassignOne(q, slots, drained, runs)
			return len(d.reassign) < maxAssigned
		})
	}
}

// reassignOne assigns an attempt to another node, if there is one that can continue it. runs
// reports whether its owner runs.
func (d *decision) reassignOne(q *buildsv1.Record, slots []*slot, drained []*buildsv1.Node, runs bool) {
	a := builds.LastAttempt(q.Build)
	continues := func(n *buildsv1.Node) bool {
		return builds.HasCopy(builds.CopiesOf(a), n.Name, n.StoreId) && slices.Contains(n.Runtimes, a.Runtime)
	}
	var to *slot
	for _, sl := range slots {
		if continues(sl.node) && (to == nil || sl.used < to.used) {
			to = sl
		}
	}
	if i := slices.IndexFunc(drained, continues); to == nil && i >= 0 && !runs {
		to = &slot{node: drained[i]}
	}
	if to == nil {
		return
	}
	to.used++
	d.reassign = append(d.reassign, &buildsv1.AssignAttempt_Assignment{
		BuildId: q.Build.Id, Attempt: a.Number, Owner: to.node.Name, OwnerStoreId: to.node.StoreId,
		Epoch: builds.MaxEpoch(q.Build) + 1, BuildVersion: q.Build.Version, Runtime: a.Runtime,
	})
}

// nodes returns the nodes that can hold logs now.
func nodes(s *builds.State, r rules, slots []*slot) (h holders) {
	for _, sl := range slots {
		h.alive = append(h.alive, sl.node)
	}
	s.Nodes(func(n *buildsv1.Node) bool {
		if !n.Lost {
			h.known++
		}
		if n.Drained && r.alive(n) {
			h.drained = append(h.drained, n)
		}
		return true
	})
	return h
}

// load returns the capacity of each node that can get attempts.
func load(s *builds.State, r rules) (slots []*slot) {
	s.Nodes(func(n *buildsv1.Node) bool {
		if !n.Drained && r.alive(n) {
			used := s.Owned(n.Name)
			slots = append(slots, &slot{node: n, free: int(n.Capacity) - used, used: used})
		}
		return true
	})
	return slots
}

// deadlines adds builds past their deadline to overdue, and otherwise the next deadline to wake. It
// ignores builds that are being stopped.
func (d *decision) deadlines(s *builds.State, now time.Time) {
	check := func(q *buildsv1.Record) bool {
		if t := q.Build.Deadline.AsTime(); now.Before(t) {
			d.later(t)
			return false
		}
		d.overdue = append(d.overdue, q.Build.Id)
		return len(d.overdue) < maxOverdue
	}
	s.QueuedByDeadline(check)
	if len(d.overdue) < maxOverdue {
		s.LiveByDeadline(check)
	}
}

// pauses adds the end of the next pause of a queued build to wake.
func (d *decision) pauses(s *builds.State, now time.Time) {
	s.Delayed(func(q *buildsv1.Record) bool {
		at := q.Build.NotBefore.AsTime()
		if now.Before(at) {
			d.later(at)
		}
		return !now.Before(at)
	})
}

// historyDue returns the time at which the history exceeds a limit. If it does so now, it sets
// d.reap and returns the zero time.
func historyDue(s *builds.State, now time.Time, d *decision) time.Time {
	at, ok := s.HistoryDue()
	if !ok {
		return time.Time{}
	}
	if !now.Before(at) {
		d.reap = true
		return time.Time{}
	}
	return at
}
