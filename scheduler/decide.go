package scheduler

import (
	"cmp"
	"slices"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// recheck is the pause between decisions while builds wait and some node that
// is not lost takes none.
const recheck = 500 * time.Millisecond

// window bounds how many queued builds one decision looks at, oldest first.
const window = 4096

// decision is what the leader commits next.
type decision struct {
	assign []*buildsv1.AssignAttempt_Assignment
	// reassign gives live attempts, whose owner is gone, to others.
	reassign []*buildsv1.AssignAttempt_Assignment
	// overdue are builds past their deadline.
	overdue []string
	// reap tells that the history holds more than it should.
	reap bool
	// wake is when the next decision may differ although nothing changed.
	wake time.Time
}

// rules are what a decision depends on besides the state.
type rules struct {
	// alive reports whether a node can be given attempts now.
	alive func(*buildsv1.Node) bool
	// runtime names the runtime for a source, or "" if there is none.
	runtime func(*imagebuilderv1.Source) string
	// adoptable reports whether a runtime's workloads outlive their node.
	adoptable func(runtime string) bool
	// replicas is how many nodes hold each log; 0 in a state of feature level 1.
	replicas int
}

// slot is one node's room for attempts.
type slot struct {
	node *buildsv1.Node
	free int
	used int
}

// decide chooses which queued builds start where: fair among requesters,
// oldest first for each, on the least loaded node that has the runtime.
func decide(s *builds.State, now time.Time, r rules) decision {
	var d decision
	d.later(historyDue(s, now, &d))
	slots, usedBy, total := load(s, r, now, &d)
	if s.Level() < 2 {
		r.replicas = 0
	}
	alive, known := nodes(s, slots)
	if len(alive) < known && s.Counts().Queued > 0 {
		d.later(now.Add(recheck)) // a node that takes builds again says so to who asks
	}
	d.adopt(s, r, slots)
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
			if a.Copies = r.copies(sl.node, alive, known, b.Id); a.Copies == nil {
				break // no second node can hold the log now
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

// later notes when to decide again.
func (d *decision) later(t time.Time) {
	if !t.IsZero() && (d.wake.IsZero() || t.Before(d.wake)) {
		d.wake = t
	}
}

// nodes answers the nodes that can hold logs now, and how many are not lost.
func nodes(s *builds.State, slots []*slot) (alive []*buildsv1.Node, known int) {
	for _, sl := range slots {
		alive = append(alive, sl.node)
	}
	s.Nodes(func(n *buildsv1.Node) bool {
		if !n.Lost {
			known++
		}
		return true
	})
	return alive, known
}

// adopt gives live attempts whose owner is gone, but not their workload, to
// nodes that have the runtime: best to one that holds the log.
func (d *decision) adopt(s *builds.State, r rules, slots []*slot) {
	if s.Level() < 2 {
		return
	}
	s.Live(func(q *buildsv1.Record) bool {
		a := builds.LastAttempt(q.Build)
		if n := s.Node(a.Owner); !a.Adoptable || n != nil && n.StoreId == a.OwnerStoreId && !n.Lost && !n.Stopping && !n.Drained {
			return true
		}
		var to *slot
		for _, sl := range slots {
			holds := builds.HasCopy(builds.CopiesOf(a), sl.node.Name, sl.node.StoreId)
			if holds && slices.Contains(sl.node.Runtimes, a.Runtime) && (to == nil || sl.used < to.used) {
				to = sl
			}
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

// load answers the room on each node and what each requester runs. It notes
// live builds past their deadline.
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
		return true
	})
	return slots, usedBy, total
}

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

// candidates answers the queued builds that may start now, so ordered that
// requesters take turns, those with the least running first.
func candidates(s *builds.State, now time.Time, usedBy map[string]int, d *decision) []*buildsv1.Record {
	type entry struct {
		r    *buildsv1.Record
		turn int
	}
	// Those that have to end do wherever they stand in the queue.
	s.QueuedByDeadline(func(q *buildsv1.Record) bool {
		d.deadline(q, now)
		return !now.Before(q.Build.Deadline.AsTime()) && len(d.overdue) < window
	})
	var list []entry
	turns := map[string]int{}
	seen := 0
	s.Queued(func(q *buildsv1.Record) bool {
		seen++
		if t := q.Build.NotBefore; t != nil && now.Before(t.AsTime()) {
			d.later(t.AsTime())
			return seen < window
		}
		if !q.Successor && now.Before(q.Build.Deadline.AsTime()) {
			who := q.Build.Requester
			list = append(list, entry{q, usedBy[who] + turns[who]})
			turns[who]++
		}
		return seen < window
	})
	slices.SortStableFunc(list, func(a, b entry) int { return cmp.Compare(a.turn, b.turn) })
	out := make([]*buildsv1.Record, len(list))
	for i, e := range list {
		out[i] = e.r
	}
	return out
}

// historyDue answers when the oldest ended build has to go, and notes whether
// that is now.
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
