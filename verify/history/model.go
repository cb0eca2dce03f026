package history

import (
	"fmt"
	"slices"
)

// The sequential model of one ref.
//
// The system ends builds by itself, at a time that no client observes. The model leaves this open:
// a build may have ended unless a response shows that it is active, and every step restricts this
// as far as its response requires. So the model is deterministic although the system is not. The
// final phase of a build is known in advance, from the whole history.
//
// Calls of unknown outcome only add possible states, from their start on: a create may have added
// its requester to any build of the ref, a cancellation may have removed its requester or may stop
// the build.

// apply returns the state after a step, or the reason why the step is impossible.
func (s state) apply(st step) (state, *refusal) {
	switch st.action {
	case actionCreate:
		return s.create(st)
	case actionMayAttach:
		s.possible = with(s.possible, st.requester)
		return s, nil
	}
	i := s.find(st.build.id)
	if st.action == actionMayCancel {
		return s.mayCancel(i, st), nil
	}
	if st.call.Out.NotFound {
		if i >= 0 {
			return s, refuse(NeverLost, "build %s exists and a call did not find it", st.build.id)
		}
		return s, nil
	}
	if i < 0 {
		return s, refuse(Linearizable, "build %s was returned before it was created", st.build.id)
	}
	switch st.action {
	case actionAttach:
		return s.attach(i, st)
	case actionRead:
		return s.read(i, st)
	case actionCancel:
		return s.cancel(i, st)
	default:
		return s.end(i, st.build, "it was reported as "+string(st.build.final))
	}
}

// create appends a build. All other builds have ended, except that a build whose cancellation was
// accepted may still be stopping, and that any build may still run if the request was forced. If
// two such builds are left, one of them must have ended too; the model does not decide which.
func (s state) create(st step) (state, *refusal) {
	if s.find(st.build.id) >= 0 {
		return s, refuse(AskedFor, "build %s was created twice", st.build.id)
	}
	for i, e := range s.entries {
		other := st.build.sibling(e.id)
		if e.over || e.stop != notStopping || other.overdue || st.build.waits {
			continue
		}
		var no *refusal
		if s, no = s.end(i, other, fmt.Sprintf("build %s was created after it", st.build.id)); no != nil {
			return s, no
		}
	}
	e := &entry{id: st.build.id, waits: st.build.waits}
	if st.requester != unknownRequester {
		e.requesters = []string{st.requester}
	}
	s.entries = append(slices.Clip(s.entries), e)
	return s, nil
}

// attach adds a requester to the newest build, or to the build for which all newer ones wait. A
// build that succeeded during the request may satisfy it too; this needs no rule, because the
// request can have taken effect just before the end.
func (s state) attach(i int, st step) (state, *refusal) {
	e := s.entries[i]
	switch {
	case slices.ContainsFunc(s.entries[i+1:], func(e *entry) bool { return !e.waits }):
		return s, refuse(OneActive, "a request attached to build %s after build %s had been created", e.id, s.entries[len(s.entries)-1].id)
	case e.over:
		return s, refuse(AttachActive, "a request attached to build %s, which had ended: %s", e.id, e.by)
	case e.stop == certainlyStopping:
		return s, refuse(AttachActive, "a request attached to build %s, whose cancellation was accepted", e.id)
	}
	return s.edit(i, func(e *entry) {
		e.requesters, e.former = with(e.requesters, st.requester), without(e.former, st.requester)
	}), nil
}

// read is a linearizable read.
func (s state) read(i int, st step) (state, *refusal) {
	e, seen := s.entries[i], st.call.Out.Build
	if seen.Phase.Terminal() {
		return s.end(i, st.build, "it was read as "+string(seen.Phase))
	}
	switch {
	case e.over && i < len(s.entries)-1:
		return s, refuse(OneActive, "build %s was read as %s although it had ended: %s", e.id, seen.Phase, e.by)
	case e.over:
		return s, refuse(LinearizableReads, "build %s was read as %s although it had ended: %s", e.id, seen.Phase, e.by)
	case e.stop == certainlyStopping && !seen.CancelRequested:
		return s, refuse(LinearizableReads, "build %s was read without its cancellation, which was accepted before", e.id)
	case e.stop == notStopping && seen.CancelRequested:
		return s, refuse(CancelHolds, "build %s was read with a cancellation that no client requested", e.id)
	}
	if seen.CancelRequested {
		s = s.edit(i, func(e *entry) { e.stop = certainlyStopping })
	}
	if !seen.Phase.live() {
		return s, nil
	}
	for j := range i {
		var no *refusal
		if s, no = s.end(j, st.build.sibling(s.entries[j].id), fmt.Sprintf("build %s was reported as %s", e.id, seen.Phase)); no != nil {
			return s, no
		}
	}
	return s, nil
}
