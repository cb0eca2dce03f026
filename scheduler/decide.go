package scheduler

import (
	"cmp"
	"slices"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/placement"
)

const (
	// recheckInterval is the time between decisions while builds wait and a node that is not lost
	// accepts none. The node reports only in response to a ping that it accepts builds again.
	recheckInterval = 500 * time.Millisecond
	// queueWindow limits how many queued builds one decision considers, oldest first.
	queueWindow = 4096
)

// decision is a set of changes that the leader commits next.
type decision struct {
	assign []*buildsv1.AssignAttempt_Assignment
	// reassign gives attempts whose owner is lost or about to stop to other nodes.
	reassign []*buildsv1.AssignAttempt_Assignment
	// overdue are the ids of builds past their deadline.
	overdue []string
	// revoke ends attempts that their owners should have stopped.
	revoke []*buildsv1.RevokeAttempt
	// reap means that the history exceeds its limits.
	reap bool
	// wake is the time of the next decision if nothing changes. Zero means that time alone changes
	// no decision.
	wake time.Time
}

// later moves wake forward to t if that is earlier.
func (d *decision) later(t time.Time) {
	if !t.IsZero() && (d.wake.IsZero() || t.Before(d.wake)) {
		d.wake = t
	}
}

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
// is pure.
func decide(s *builds.State, now time.Time, r rules) decision {
	var d decision
	d.later(historyDue(s, now, &d))
	slots, usedBy, total := load(s, r, now, &d)
	if s.Level() < 2 {
		r.replicas = 0
	}
	h := nodes(s, r, slots)
	if len(h.alive) < h.known && s.Counts().Queued > 0 {
		d.later(now.Add(recheckInterval))
	}
	d.adopt(s, slots, h.drained)
	set := s.Settings()
	room := 0
	for _, sl := range slots {
		room += sl.free
	}
	if set.RunningTotal > 0 {
		room = min(room, int(set.RunningTotal)-total)
	}
	for _, q := range candidates(s, now, usedBy, &d) {
		if room <= 0 {
			break
		}
		b := q.Build
		if limit := set.RunningPerRequester; limit > 0 && usedBy[b.Requester] >= int(limit) {
			continue
		}
		name := r.runtime(b.Source)
		sl := place(slots, name, locality(b.Source), failedOn(b))
		if sl == nil {
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
				break // no second node can hold a log now
			}
		}
		sl.free--
		sl.used++
		room--
		usedBy[b.Requester]++
		d.assign = append(d.assign, a)
	}
	return d
}

// adopt assigns attempts to other nodes if their owner is lost, removed, drained or about to stop
// and their workload outlives it. The new owner must have the runtime and a copy of the log. adopt
// chooses the least loaded one, and a drained one only if the owner does not run.
func (d *decision) adopt(s *builds.State, slots []*slot, drained []*buildsv1.Node) {
	if s.Level() < 2 {
		return
	}
	s.Live(func(q *buildsv1.Record) bool {
		a := builds.LastAttempt(q.Build)
		n := s.Node(a.Owner)
		runs := n != nil && n.StoreId == a.OwnerStoreId && !n.Lost
		if !a.Adoptable || runs && !n.Stopping && !n.Drained {
			return true
		}
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
			return true
		}
		to.used++
		d.reassign = append(d.reassign, &buildsv1.AssignAttempt_Assignment{
			BuildId: q.Build.Id, Attempt: a.Number, Owner: to.node.Name, OwnerStoreId: to.node.StoreId,
			Epoch: builds.MaxEpoch(q.Build) + 1, BuildVersion: q.Build.Version, Runtime: a.Runtime,
		})
		return true
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

// load returns the capacity of each node that can get attempts, the number of running attempts by
// requester, and their total. It adds live builds past their deadline to d.
func load(s *builds.State, r rules, now time.Time, d *decision) (slots []*slot, usedBy map[string]int, total int) {
	byName := map[string]*slot{}
	s.Nodes(func(n *buildsv1.Node) bool {
		sl := &slot{node: n, free: int(n.Capacity)}
		byName[n.Name] = sl
		if !n.Drained && r.alive(n) {
			slots = append(slots, sl)
		}
		return true
	})
	usedBy = map[string]int{}
	s.Live(func(q *buildsv1.Record) bool {
		total++
		usedBy[q.Build.Requester]++
		if sl := byName[builds.LastAttempt(q.Build).Owner]; sl != nil {
			sl.free--
			sl.used++
		}
		d.deadline(q, now)
		d.unstopped(q, now)
		return true
	})
	return slots, usedBy, total
}

// deadline adds a build past its deadline to overdue, and otherwise its deadline to wake. It
// ignores a build that is being stopped.
func (d *decision) deadline(q *buildsv1.Record, now time.Time) {
	if q.StopReason != buildsv1.StopReason_STOP_REASON_UNSPECIFIED {
		return
	}
	if t := q.Build.Deadline.AsTime(); !now.Before(t) {
		d.overdue = append(d.overdue, q.Build.Id)
	} else {
		d.later(t)
	}
}

// candidates returns the queued builds that may start now. Requesters take turns, and the requester
// with the fewest running attempts is first. candidates adds queued builds past their deadline to
// d, wherever they are in the queue.
func candidates(s *builds.State, now time.Time, usedBy map[string]int, d *decision) []*buildsv1.Record {
	type entry struct {
		r    *buildsv1.Record
		turn int
	}
	s.QueuedByDeadline(func(q *buildsv1.Record) bool {
		d.deadline(q, now)
		return !now.Before(q.Build.Deadline.AsTime()) && len(d.overdue) < queueWindow
	})
	var list []entry
	turns := map[string]int{}
	seen := 0
	s.Queued(func(q *buildsv1.Record) bool {
		seen++
		if t := q.Build.NotBefore; t != nil && now.Before(t.AsTime()) {
			d.later(t.AsTime())
			return seen < queueWindow
		}
		if !q.Successor && now.Before(q.Build.Deadline.AsTime()) {
			requester := q.Build.Requester
			list = append(list, entry{q, usedBy[requester] + turns[requester]})
			turns[requester]++
		}
		return seen < queueWindow
	})
	slices.SortStableFunc(list, func(a, b entry) int { return cmp.Compare(a.turn, b.turn) })
	out := make([]*buildsv1.Record, len(list))
	for i, e := range list {
		out[i] = e.r
	}
	return out
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
