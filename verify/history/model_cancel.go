package history

import "slices"

// unknownRequester stands for the requester of a build that only a request of unknown outcome can
// have created.
const unknownRequester = "\x00"

// mayBeRequester reports whether a client may be a requester of the entry.
func (s state) mayBeRequester(e *entry, who string) bool {
	return slices.Contains(e.requesters, who) || slices.Contains(e.possible, who) || slices.Contains(s.possible, who)
}

// others reports whether the entry certainly, or possibly, has another requester than who.
func (s state) others(e *entry, who string) (certainly, possibly bool) {
	for _, r := range e.requesters {
		if r != who {
			possibly = true
			certainly = certainly || !slices.Contains(e.possible, r)
		}
	}
	for _, r := range slices.Concat(e.possible, s.possible) {
		possibly = possibly || r != who
	}
	return certainly, possibly
}

// mayCancel is a cancellation of unknown outcome: from now on its requester may have withdrawn, and
// the build may be stopping.
func (s state) mayCancel(i int, st step) state {
	if i < 0 || s.entries[i].over {
		return s
	}
	return s.edit(i, func(e *entry) {
		if !st.call.Op.Operator {
			e.possible = with(e.possible, st.requester)
		}
		if st.build.final != Succeeded && st.build.final != Failed {
			e.stop = max(e.stop, maybeStopping)
		}
	})
}

// cancel is a cancellation with a response.
func (s state) cancel(i int, st step) (state, *refusal) {
	e, who, out := s.entries[i], st.requester, st.call.Out
	certainly, possibly := s.others(e, who)
	if st.call.Op.Operator {
		certainly = false
	}
	switch {
	case out.Build.Phase.Terminal() && !out.Detached && !out.TooLate && !out.NotRequester:
		return s.cancelOver(i, st, certainly)
	case e.over:
		return s, refuse(Linearizable, "a cancellation of build %s got the response for an active build, but the build had ended: %s", e.id, e.by)
	case out.Detached && slices.Contains(e.former, who):
		return s, nil
	case out.Detached:
		if !possibly || !s.mayBeRequester(e, who) {
			return s, refuse(LastRequester, "%s was detached from build %s, whose requesters are %q", who, e.id, e.requesters)
		}
		return s.edit(i, func(e *entry) { e.requesters, e.former = without(e.requesters, who), with(e.former, who) }), nil
	case out.TooLate:
		if certainly {
			return s, refuse(LastRequester, "%s got the response that it is too late to cancel build %s, instead of being detached from it: its requesters are %q", who, e.id, e.requesters)
		}
		if e.stop == certainlyStopping {
			return s, refuse(CancelHolds, "build %s was being published although its cancellation was accepted", e.id)
		}
		return s, nil
	case out.NotRequester:
		if (slices.Contains(e.requesters, who) || slices.Contains(e.former, who)) && !slices.Contains(e.possible, who) {
			return s, refuse(LastRequester, "%s got the response that it is no requester of build %s, but its requesters are %q", who, e.id, e.requesters)
		}
		if e.stop == certainlyStopping {
			return s, refuse(CancelHolds, "a cancellation of build %s was refused although it was stopping", e.id)
		}
		return s, nil
	}
	return s.cancelAccepted(i, st, certainly)
}

// cancelAccepted is the response that the build stops. others reports whether the build certainly
// has another requester.
func (s state) cancelAccepted(i int, st step, others bool) (state, *refusal) {
	e := s.entries[i]
	if e.stop == notStopping && !st.build.overdue {
		if others {
			return s, refuse(LastRequester, "%s stopped build %s although it has other requesters: its requesters are %q", st.requester, e.id, e.requesters)
		}
		if !st.call.Op.Operator && !s.mayBeRequester(e, st.requester) {
			return s, refuse(LastRequester, "%s stopped build %s without being its requester: its requesters are %q", st.requester, e.id, e.requesters)
		}
	}
	if !st.call.Out.Build.CancelRequested {
		// The deadline passed before the cancellation, or the response does not show it.
		return s.edit(i, func(e *entry) { e.stop = max(e.stop, maybeStopping) }), nil
	}
	if f := st.build.final; f == Succeeded || f == Failed {
		return s, refuse(CancelHolds, "build %s has %s although its cancellation was accepted", e.id, f.verb())
	}
	return s.edit(i, func(e *entry) {
		switch {
		case e.stop == notStopping && !st.call.Op.Operator:
			e.requesters = nil
		case e.stop != certainlyStopping: // an operator may have stopped it before
			for _, r := range e.requesters {
				e.possible = with(e.possible, r)
			}
		}
		e.stop = certainlyStopping
	}), nil
}

// cancelOver is the response that the build has ended: it had ended before, or this cancellation
// ended it in the queue.
func (s state) cancelOver(i int, st step, others bool) (state, *refusal) {
	e, over := s.entries[i], "a cancellation found it "+string(st.call.Out.Build.Phase)
	next, no := s.end(i, st.build, over)
	switch {
	case no == nil:
		return next, nil
	case others:
		return s, refuse(LastRequester, "%s cancelled build %s although it has other requesters: its requesters are %q", st.requester, e.id, e.requesters)
	case !st.call.Op.Operator && !s.mayBeRequester(e, st.requester):
		return s, refuse(LastRequester, "%s cancelled build %s without being its requester: its requesters are %q", st.requester, e.id, e.requesters)
	}
	return s.close(i, over), nil
}
