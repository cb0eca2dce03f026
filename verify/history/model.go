package history

import (
	"fmt"
	"slices"
)

// The sequential model of one ref.
//
// The system ends builds by itself, at a time that nobody sees. The model
// keeps that open: a build that nothing has shown to be over may or may not be
// over, and every step narrows this to what its answer needs. So the model is
// deterministic although the system is not. The phase in which a build ends is
// known beforehand, from the whole history.
//
// Calls of unknown outcome only widen what is allowed from their start on: a
// create may have added its requester to any build of the ref, a cancellation
// may have taken its requester out or may stop the build.

// stopping is whether a build was asked to stop.
type stopping int

const (
	notStopping stopping = iota
	maybeStopping
	surelyStopping
)

// entry is a build in the state. Entries are never changed, only replaced.
type entry struct {
	id string
	// over: it must have ended; by tells what has shown it.
	over bool
	by   string
	stop stopping
	// requesters follow it; loose are those who may or may not.
	requesters, loose []string
	// former took their request back: doing so again answers the same.
	former []string
}

// state is a ref: its builds in the order of their creation, and the
// requesters who may follow any of them.
type state struct {
	entries []*entry
	loose   []string
}

func (s state) equal(o state) bool {
	return slices.Equal(s.loose, o.loose) && slices.EqualFunc(s.entries, o.entries, func(a, b *entry) bool {
		return a == b || a.id == b.id && a.over == b.over && a.stop == b.stop &&
			slices.Equal(a.requesters, b.requesters) && slices.Equal(a.loose, b.loose) && slices.Equal(a.former, b.former)
	})
}

func (s state) find(id string) int {
	return slices.IndexFunc(s.entries, func(e *entry) bool { return e.id == id })
}

// edit replaces an entry by a changed copy.
func (s state) edit(i int, change func(*entry)) state {
	e := *s.entries[i]
	change(&e)
	s.entries = slices.Clone(s.entries)
	s.entries[i] = &e
	return s
}

// with adds a member to a sorted set without changing it.
func with(set []string, who string) []string {
	i, found := slices.BinarySearch(set, who)
	if found {
		return set
	}
	return slices.Insert(slices.Clone(set), i, who)
}

// without takes a member out of a sorted set without changing it.
func without(set []string, who string) []string {
	i, found := slices.BinarySearch(set, who)
	if !found {
		return set
	}
	return slices.Delete(slices.Clone(set), i, i+1)
}

// refusal is why a step is impossible; nil means that it is possible.
type refusal struct {
	invariant Invariant
	why       string
}

func refuse(i Invariant, format string, args ...any) *refusal {
	return &refusal{i, fmt.Sprintf(format, args...)}
}

// action is what a step of the model does.
type action int

const (
	makes     action = iota // a request makes a build
	joins                   // a request attaches to a build
	mayJoin                 // a request of unknown outcome
	looks                   // a linearizable read
	cancels                 // an answered cancellation
	mayCancel               // a cancellation of unknown outcome
	isOver                  // a terminal phase was seen
)

// step is one operation of the model. It belongs to a call of the history.
type step struct {
	action action
	ref    string
	// build is nil for mayJoin.
	build     *build
	requester string
	call      Record
}

// apply answers the state after a step, or why the step is impossible.
func (s state) apply(st step) (state, *refusal) {
	switch st.action {
	case makes:
		return s.make(st)
	case mayJoin:
		s.loose = with(s.loose, st.requester)
		return s, nil
	}
	i := s.find(st.build.id)
	if st.action == mayCancel {
		return s.mayCancel(i, st), nil
	}
	if st.call.Out.NotFound {
		if i >= 0 {
			return s, refuse(NeverLost, "build %s exists and was not found", st.build.id)
		}
		return s, nil
	}
	if i < 0 {
		return s, refuse(Linearizable, "build %s was shown before it was created", st.build.id)
	}
	switch st.action {
	case joins:
		return s.join(i, st)
	case looks:
		return s.look(i, st)
	case cancels:
		return s.cancel(i, st)
	default:
		return s.end(i, st.build, "it was seen as "+string(st.build.final))
	}
}

// end narrows a build to being over.
func (s state) end(i int, b *build, by string) (state, *refusal) {
	e := s.entries[i]
	switch {
	case e.over:
		return s, nil
	case b.final == Cancelled && e.stop == notStopping:
		return s, refuse(CancelHolds, "build %s ended as cancelled before anybody cancelled it", b.id)
	}
	return s.close(i, by), nil
}

// close makes a build over. What it was before no longer matters, so that
// states which differ in it only are one to the search.
func (s state) close(i int, by string) state {
	return s.edit(i, func(e *entry) { *e = entry{id: e.id, over: true, by: by} })
}

// make appends a build. All others are over; one that was asked to stop may
// still be on its way. Where two such builds are left, one of them must be
// over as well, but the model does not go into which.
func (s state) make(st step) (state, *refusal) {
	if s.find(st.build.id) >= 0 {
		return s, refuse(AskedFor, "build %s was made twice", st.build.id)
	}
	for i, e := range s.entries {
		other := st.build.sibling(e.id)
		if e.over || e.stop != notStopping || other.overdue {
			continue
		}
		var no *refusal
		if s, no = s.end(i, other, fmt.Sprintf("build %s was created after it", st.build.id)); no != nil {
			return s, no
		}
	}
	e := &entry{id: st.build.id}
	if st.requester != unknownRequester {
		e.requesters = []string{st.requester}
	}
	s.entries = append(slices.Clip(s.entries), e)
	return s, nil
}

// join adds a requester to the newest build. That a build which succeeded
// during the request answers it too needs no rule: the request could as well
// have come just before the end.
func (s state) join(i int, st step) (state, *refusal) {
	e := s.entries[i]
	switch {
	case i < len(s.entries)-1:
		return s, refuse(OneActive, "a request attached to build %s after build %s had been created", e.id, s.entries[len(s.entries)-1].id)
	case e.over:
		return s, refuse(AttachActive, "a request attached to build %s, which was over: %s", e.id, e.by)
	case e.stop == surelyStopping:
		return s, refuse(AttachActive, "a request attached to build %s, whose cancellation was accepted", e.id)
	}
	return s.edit(i, func(e *entry) {
		e.requesters, e.former = with(e.requesters, st.requester), without(e.former, st.requester)
	}), nil
}

// look is a linearizable read.
func (s state) look(i int, st step) (state, *refusal) {
	e, seen := s.entries[i], st.call.Out.Build
	if seen.Phase.Terminal() {
		return s.end(i, st.build, "it was read as "+string(seen.Phase))
	}
	switch {
	case e.over && i < len(s.entries)-1:
		return s, refuse(OneActive, "build %s was read as %s although it was over: %s", e.id, seen.Phase, e.by)
	case e.over:
		return s, refuse(LinearizableReads, "build %s was read as %s although it was over: %s", e.id, seen.Phase, e.by)
	case e.stop == surelyStopping && !seen.CancelRequested:
		return s, refuse(LinearizableReads, "build %s was read without its cancellation, which was accepted before", e.id)
	case e.stop == notStopping && seen.CancelRequested:
		return s, refuse(CancelHolds, "build %s was read with a cancellation that nobody asked for", e.id)
	}
	if seen.CancelRequested {
		s = s.edit(i, func(e *entry) { e.stop = surelyStopping })
	}
	if !seen.Phase.live() {
		return s, nil
	}
	for j := range i {
		var no *refusal
		if s, no = s.end(j, st.build.sibling(s.entries[j].id), fmt.Sprintf("build %s was seen as %s", e.id, seen.Phase)); no != nil {
			return s, no
		}
	}
	return s, nil
}
