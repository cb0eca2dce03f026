package history

import (
	"cmp"
	"math"
	"slices"
)

// request is one request for an image: all calls with one request id of one requester, or a single
// call without a request id. It takes effect at most once, between the start of its first call and
// its first response.
type request struct {
	ref, requester, id string
	calls              []Record
	// responses are the calls whose response names a build, by their end.
	responses []Record
	start     int64
	// end is the end of the first of them, or math.MaxInt64.
	end int64
}

// mayHaveEffect reports whether the request may have taken effect although no response shows it. A
// client tries again when a response is lost: the first try may have created a build, and a later one
// found that the image exists.
func (q *request) mayHaveEffect() bool {
	return len(q.responses) == 0 && slices.ContainsFunc(q.calls, func(r Record) bool { return r.Status == Unknown || r.Out.Exists })
}

// build is everything that the history contains about one build.
type build struct {
	id, ref string
	all     map[string]*build
	// requests are the requests whose responses name the build, in the order of the responses.
	requests []*request
	// observations are the calls whose response shows a phase of the build, by their end.
	observations []Record
	// missing are the calls that did not find the build.
	missing []Record
	// cancels are the cancellations with any outcome, by their start.
	cancels []Record
	// known is the end of the first call whose response names the build.
	known int64
	// createdIndex and createdAt are 0 if no response shows them.
	createdIndex uint64
	createdAt    int64
	// created is the call whose response shows the creation.
	created Record
	// final is the terminal phase that was observed first, last the call that observed it.
	final   Phase
	last    Record
	overdue bool
	// waits is set if a forced request may have created the build. Such a build may be created
	// while another build of the ref runs, and then waits for the end of that one.
	waits bool
}

// evidence is a history grouped by builds and refs.
type evidence struct {
	history  History
	builds   map[string]*build
	ids      []string // of builds, by known
	refs     []string // in the order of their first request
	byRef    map[string][]*build
	requests []*request // by start
}

// gather groups a history. It leaves out responses about builds that no response to a create names,
// because their ref is not known.
func gather(h History) *evidence {
	e := &evidence{history: slices.Clone(h), builds: map[string]*build{}, byRef: map[string][]*build{}}
	slices.SortFunc(e.history, func(a, b Record) int { return cmp.Compare(a.Start, b.Start) })
	e.gatherRequests()
	for _, q := range e.requests {
		for _, r := range q.responses {
			e.acknowledge(q, r)
		}
	}
	for _, r := range e.history {
		e.addObservation(r)
	}
	for _, b := range e.builds {
		b.waits = e.maybeForced(b)
	}
	for id, b := range e.builds {
		e.ids = append(e.ids, id)
		b.sortObservations()
	}
	slices.SortFunc(e.ids, func(x, y string) int { return cmp.Compare(e.builds[x].known, e.builds[y].known) })
	for _, id := range e.ids {
		b := e.builds[id]
		e.byRef[b.ref] = append(e.byRef[b.ref], b)
	}
	return e
}

// gatherRequests groups the creates by request id.
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
			q.responses = append(q.responses, r)
			q.end = min(q.end, r.End)
		}
	}
	for _, q := range e.requests {
		slices.SortFunc(q.responses, func(a, b Record) int { return cmp.Compare(a.End, b.End) })
	}
}

// acknowledge adds a response of a request to the build that it names.
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

// addObservation adds a call to the build that it is about, if that build is known.
func (e *evidence) addObservation(r Record) {
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
		b.observations = append(b.observations, r)
		b.createdAt = max(b.createdAt, r.Out.Build.CreatedAt)
	}
}

// maybeForced reports whether a forced request may have created the build: the request whose
// response says that it created the build, or any of unknown outcome.
func (e *evidence) maybeForced(b *build) bool {
	forced := func(q *request) bool { return q.calls[0].Op.Force }
	for _, q := range b.requests {
		if !q.responses[0].Out.Attached {
			return forced(q)
		}
	}
	return slices.ContainsFunc(e.mayHaveCreated(b), forced)
}

// sortObservations sorts the observations and finds the first terminal one.
func (b *build) sortObservations() {
	slices.SortFunc(b.observations, func(x, y Record) int { return cmp.Compare(x.End, y.End) })
	for _, r := range b.observations {
		b.known = min(b.known, r.End)
		b.overdue = b.overdue || r.Out.Build.Overdue
		if b.final == "" && r.Out.Build.Phase.Terminal() {
			b.final, b.last = r.Out.Build.Phase, r
		}
	}
}

// sibling returns another build of the history.
func (b *build) sibling(id string) *build { return b.all[id] }

// mayHaveCreated returns the requests of unknown outcome that may have created the build.
func (e *evidence) mayHaveCreated(b *build) (out []*request) {
	for _, q := range e.requests {
		if q.ref == b.ref && q.mayHaveEffect() && q.start < b.known {
			out = append(out, q)
		}
	}
	return out
}
