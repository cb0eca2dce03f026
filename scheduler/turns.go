package scheduler

import (
	"container/heap"
	"slices"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// maxPassed limits how many builds of one kind a decision passes over because no node has a free
// place for their runtime. All builds of a kind have the same runtime, except in tests.
const maxPassed = 256

// turns yields the queued builds that may start. Requesters take turns: the next build is that of
// the requester with the fewest running builds, counting those that this decision starts. Among
// equals the oldest build is next. turns reads the builds that it yields and few more.
type turns struct {
	state *builds.State
	now   time.Time
	limit int // running builds of each requester; 0 means no limit
	kinds [builds.Kinds]kindTurns
	lanes map[laneID]*lane // that were met
	queue laneHeap         // lanes that have a build
	taken map[string]int   // builds that this decision starts, by requester
}

// kindTurns are the lanes of one kind that were not met yet.
type kindTurns struct {
	heads  *builds.Heads
	first  *buildsv1.Record // next of heads; nil after the last one
	passed int
	closed bool // no further build of the kind can start
}

type laneID struct {
	kind      builds.Kind
	requester string
}

// lane has the builds of one requester and kind that are not assigned yet.
type lane struct {
	id    laneID
	ready *buildsv1.Record // next one in the state
	// due are builds whose pause has ended since the last command, oldest first. The state does not
	// count them as ready yet.
	due  []*buildsv1.Record
	turn int
}

// head returns the next build of a lane, or nil.
func (l *lane) head() *buildsv1.Record {
	if len(l.due) > 0 && (l.ready == nil || older(l.due[0], l.ready)) {
		return l.due[0]
	}
	return l.ready
}

// older reports whether a was created before b.
func older(a, b *buildsv1.Record) bool {
	if a.CreatedIndex != b.CreatedIndex {
		return a.CreatedIndex < b.CreatedIndex
	}
	return a.Build.Id < b.Build.Id
}

// newTurns begins the turns of a decision.
func newTurns(s *builds.State, now time.Time) *turns {
	t := &turns{state: s, now: now, limit: int(s.Settings().RunningPerRequester), lanes: map[laneID]*lane{}, taken: map[string]int{}}
	s.Delayed(func(r *buildsv1.Record) bool {
		if now.Before(r.Build.NotBefore.AsTime()) {
			return false
		}
		l := t.lane(builds.KindOf(r.Build.Source), r.Build.Requester)
		l.due = append(l.due, r)
		return true
	})
	for _, l := range t.lanes {
		slices.SortFunc(l.due, compareAge)
		heap.Push(&t.queue, l)
	}
	for k := range builds.Kinds {
		t.kinds[k].heads = s.Heads(k)
		t.kinds[k].first = t.kinds[k].heads.Next()
	}
	return t
}

func compareAge(a, b *buildsv1.Record) int {
	switch {
	case older(a, b):
		return -1
	case older(b, a):
		return 1
	}
	return 0
}

// lane returns a lane. The caller pushes a new one to the queue.
func (t *turns) lane(k builds.Kind, requester string) *lane {
	id := laneID{k, requester}
	l := t.lanes[id]
	if l == nil {
		l = &lane{id: id, ready: t.state.FirstReady(k, requester), turn: t.turn(requester)}
		t.lanes[id] = l
	}
	return l
}

// turn returns the number of running builds of a requester, with those that this decision starts.
func (t *turns) turn(requester string) int { return t.state.Running(requester) + t.taken[requester] }

// next returns the build whose turn it is, or nil if no further build may start. The caller then
// calls take or pass.
func (t *turns) next() *buildsv1.Record {
	for {
		t.meet()
		if len(t.queue) == 0 {
			return nil
		}
		l := t.queue[0]
		r := l.head()
		switch turn := t.turn(l.id.requester); {
		case t.kinds[l.id.kind].closed:
			heap.Pop(&t.queue)
		case l.turn != turn: // a build of another lane of the requester started
			l.turn = turn
			heap.Fix(&t.queue, 0)
		case t.limit > 0 && turn >= t.limit:
			return nil // all others have as many
		case !t.now.Before(r.Build.Deadline.AsTime()):
			t.advance(l)
		default:
			return r
		}
	}
}

// take records that the build that next returned starts.
func (t *turns) take() {
	l := t.queue[0]
	t.taken[l.id.requester]++
	l.turn = t.turn(l.id.requester)
	t.advance(l)
}

// pass passes over the build that next returned, because no node has a free place for its runtime.
func (t *turns) pass() {
	l := t.queue[0]
	k := &t.kinds[l.id.kind]
	k.passed++
	k.closed = k.passed >= maxPassed
	t.advance(l)
}

// advance removes the head of the first lane of the queue.
func (t *turns) advance(l *lane) {
	if r := l.head(); r == l.ready {
		l.ready = t.state.NextReady(r)
	} else {
		l.due = l.due[1:]
	}
	if l.head() == nil {
		heap.Pop(&t.queue)
	} else {
		heap.Fix(&t.queue, 0)
	}
}

// meet moves lanes from the state to the queue, until the first lane of the queue is the first of
// all.
func (t *turns) meet() {
	for {
		var k *kindTurns
		turn := 0 // of the first build of k
		for i := range t.kinds {
			c := &t.kinds[i]
			if c.closed || c.first == nil {
				continue
			}
			if n := t.state.Running(c.first.Build.Requester); k == nil || precedes(n, c.first, turn, k.first) {
				k, turn = c, n
			}
		}
		if k == nil || len(t.queue) > 0 && !precedes(turn, k.first, t.queue[0].turn, t.queue[0].head()) {
			return
		}
		b := k.first.Build
		k.first = k.heads.Next()
		if id := (laneID{builds.KindOf(b.Source), b.Requester}); t.lanes[id] == nil {
			heap.Push(&t.queue, t.lane(id.kind, id.requester))
		}
	}
}

// precedes reports whether a build starts before another, by the turns of their requesters.
func precedes(turnA int, a *buildsv1.Record, turnB int, b *buildsv1.Record) bool {
	return turnA < turnB || turnA == turnB && older(a, b)
}

// laneHeap orders lanes by the turn and the age of their next build. It implements heap.Interface.
type laneHeap []*lane

func (h laneHeap) Len() int { return len(h) }
func (h laneHeap) Less(i, j int) bool {
	return precedes(h[i].turn, h[i].head(), h[j].turn, h[j].head())
}
func (h laneHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push appends a lane, for package heap.
func (h *laneHeap) Push(x any) { *h = append(*h, x.(*lane)) }

// Pop removes the last lane, for package heap.
func (h *laneHeap) Pop() any {
	n := len(*h) - 1
	l := (*h)[n]
	*h = (*h)[:n]
	return l
}
