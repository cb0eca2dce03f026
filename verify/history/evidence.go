package history

import (
	"cmp"
	"math"
	"slices"
)

// request is one wish for an image: all calls with one request id of one
// requester, or a single call without a request id. It takes effect at most
// once, between its first start and its first answer.
type request struct {
	ref, requester, id string
	calls              []Record
	// answers are the calls that were answered with a build.
	answers []Record
	start   int64
	// end is the end of the first answer, or the end of time.
	end int64
}

// maybe reports whether the request may have taken effect unseen.
func (q *request) maybe() bool {
	return len(q.answers) == 0 && slices.ContainsFunc(q.calls, func(r Record) bool { return r.Status == Unknown })
}

// build is all that the history tells of one build.
type build struct {
	id, ref string
	all     map[string]*build
	// requests were answered with the build, in the order of their answers.
	requests []*request
	// sights are the answers that showed a phase of it, by their end.
	sights []Record
	// missing are the answers that did not find it.
	missing []Record
	// cancels are the cancellations, whatever their outcome, by start.
	cancels []Record
	// known is the end of the first answer that named it to anybody.
	known int64
	// createdIndex and createdAt are 0 where nobody was told.
	createdIndex uint64
	createdAt    int64
	// created is the answer that told of its creation.
	created Record
	// final is the terminal phase that was seen first; last is that answer.
	final   Phase
	last    Record
	overdue bool
}

// evidence is a history sorted by builds and refs.
type evidence struct {
	history  History
	builds   map[string]*build
	ids      []string // of builds, by known
	refs     []string // in the order of their first request
	byRef    map[string][]*build
	requests []*request // by start
}

// gather sorts a history. Answers about builds that no create answer names
// have no ref and are left out.
func gather(h History) *evidence {
	e := &evidence{history: slices.Clone(h), builds: map[string]*build{}, byRef: map[string][]*build{}}
	slices.SortFunc(e.history, func(a, b Record) int { return cmp.Compare(a.Start, b.Start) })
	e.gatherRequests()
	for _, q := range e.requests {
		for _, r := range q.answers {
			e.acknowledge(q, r)
		}
	}
	for _, r := range e.history {
		e.addSight(r)
	}
	for id, b := range e.builds {
		e.ids = append(e.ids, id)
		b.sortOut()
	}
	slices.SortFunc(e.ids, func(x, y string) int { return cmp.Compare(e.builds[x].known, e.builds[y].known) })
	for _, id := range e.ids {
		b := e.builds[id]
		e.byRef[b.ref] = append(e.byRef[b.ref], b)
	}
	return e
}

func (e *evidence) gatherRequests() {
	type key struct{ requester, id string }
	known := map[key]*request{}
	refs := map[string]bool{}
	for _, r := range e.history {
		if r.Op.Kind != Create || r.Status == Refused {
			continue
		}
		if !refs[r.Op.Ref] {
			refs[r.Op.Ref] = true
			e.refs = append(e.refs, r.Op.Ref)
		}
		k := key{r.Op.Requester, r.Op.RequestID}
		q := known[k]
		if q == nil {
			q = &request{ref: r.Op.Ref, requester: r.Op.Requester, id: r.Op.RequestID, start: r.Start, end: math.MaxInt64}
			e.requests = append(e.requests, q)
			if k.id != "" {
				known[k] = q
			}
		}
		q.calls = append(q.calls, r)
		if r.Status == OK && r.Out.Build.ID != "" {
			q.answers = append(q.answers, r)
			q.end = min(q.end, r.End)
		}
	}
	for _, q := range e.requests {
		slices.SortFunc(q.answers, func(a, b Record) int { return cmp.Compare(a.End, b.End) })
	}
}

func (e *evidence) acknowledge(q *request, r Record) {
	seen := r.Out.Build
	b := e.builds[seen.ID]
	if b == nil {
		b = &build{id: seen.ID, ref: q.ref, all: e.builds, known: math.MaxInt64}
		e.builds[seen.ID] = b
	}
	b.known = min(b.known, r.End)
	if !slices.Contains(b.requests, q) {
		b.requests = append(b.requests, q)
	}
	if seen.CreatedIndex > 0 && (b.createdIndex == 0 || seen.CreatedIndex < b.createdIndex) {
		b.createdIndex, b.created = seen.CreatedIndex, r
	}
	if b.created.End == 0 && !r.Out.Attached {
		b.created = r
	}
}

func (e *evidence) addSight(r Record) {
	id := r.Op.ID
	if r.Op.Kind == Create {
		id = r.Out.Build.ID
	}
	b := e.builds[id]
	if b == nil || r.Status == Refused {
		return
	}
	if r.Op.Kind == Cancel {
		b.cancels = append(b.cancels, r)
	}
	switch {
	case r.Status != OK:
	case r.Out.NotFound:
		b.missing = append(b.missing, r)
	case r.Out.Build.Phase != "":
		b.sights = append(b.sights, r)
		b.createdAt = max(b.createdAt, r.Out.Build.CreatedAt)
	}
}

// sortOut orders the sights and looks for the end.
func (b *build) sortOut() {
	slices.SortFunc(b.sights, func(x, y Record) int { return cmp.Compare(x.End, y.End) })
	for _, r := range b.sights {
		b.known = min(b.known, r.End)
		b.overdue = b.overdue || r.Out.Build.Overdue
		if b.final == "" && r.Out.Build.Phase.Terminal() {
			b.final, b.last = r.Out.Build.Phase, r
		}
	}
}

// sibling answers another build.
func (b *build) sibling(id string) *build { return b.all[id] }
