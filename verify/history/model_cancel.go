package history

import "slices"

// unknownRequester stands for the requester of a build that only a request of
// unknown outcome can have made.
const unknownRequester = "\x00"

// mayFollow reports whether somebody may be a requester of the entry.
func (s state) mayFollow(e *entry, who string) bool {
	return slices.Contains(e.requesters, who) || slices.Contains(e.loose, who) || slices.Contains(s.loose, who)
}

// others reports whether somebody else surely, or perhaps, follows the entry.
func (s state) others(e *entry, who string) (surely, perhaps bool) {
	for _, r := range e.requesters {
		if r != who {
			perhaps = true
			surely = surely || !slices.Contains(e.loose, r)
		}
	}
	for _, r := range slices.Concat(e.loose, s.loose) {
		perhaps = perhaps || r != who
	}
	return surely, perhaps
}

// mayCancel is a cancellation of unknown outcome: its requester may be gone
// from now on, the build may be asked to stop.
func (s state) mayCancel(i int, st step) state {
	if i < 0 || s.entries[i].over {
		return s
	}
	return s.edit(i, func(e *entry) {
		if !st.call.Op.Operator {
			e.loose = with(e.loose, st.requester)
		}
		if st.build.final != Succeeded && st.build.final != Failed {
			e.stop = max(e.stop, maybeStopping)
		}
	})
}

// cancel is an answered cancellation.
func (s state) cancel(i int, st step) (state, *refusal) {
	e, who, out := s.entries[i], st.requester, st.call.Out
	surely, perhaps := s.others(e, who)
	if st.call.Op.Operator {
		surely = false
	}
	switch {
	case out.Build.Phase.Terminal() && !out.Detached && !out.TooLate && !out.NotRequester:
		return s.cancelOver(i, st, surely)
	case e.over:
		return s, refuse(Linearizable, "a cancellation of build %s was answered as if it were active, but it was over: %s", e.id, e.by)
	case out.Detached && slices.Contains(e.former, who):
		return s, nil
	case out.Detached:
		if !perhaps || !s.mayFollow(e, who) {
			return s, refuse(LastRequester, "%s was detached from build %s, whose requesters are %q", who, e.id, e.requesters)
		}
		return s.edit(i, func(e *entry) { e.requesters, e.former = without(e.requesters, who), with(e.former, who) }), nil
	case out.TooLate:
		if surely {
			return s, refuse(LastRequester, "%s was told that it is too late to cancel build %s instead of being detached from it: its requesters are %q", who, e.id, e.requesters)
		}
		if e.stop == surelyStopping {
			return s, refuse(CancelHolds, "build %s was being published although its cancellation was accepted", e.id)
		}
		return s, nil
	case out.NotRequester:
		if (slices.Contains(e.requesters, who) || slices.Contains(e.former, who)) && !slices.Contains(e.loose, who) {
			return s, refuse(LastRequester, "%s was refused to cancel build %s as if it had no part in it: its requesters are %q", who, e.id, e.requesters)
		}
		if e.stop == surelyStopping {
			return s, refuse(CancelHolds, "a cancellation of build %s was refused although it was stopping", e.id)
		}
		return s, nil
	}
	return s.cancelAccepted(i, st, surely)
}

// cancelAccepted is the answer that the build was asked to stop.
func (s state) cancelAccepted(i int, st step, others bool) (state, *refusal) {
	e := s.entries[i]
	if e.stop == notStopping && !st.build.overdue {
		if others {
			return s, refuse(LastRequester, "%s stopped build %s although others want it: its requesters are %q", st.requester, e.id, e.requesters)
		}
		if !st.call.Op.Operator && !s.mayFollow(e, st.requester) {
			return s, refuse(LastRequester, "%s stopped build %s without a part in it: its requesters are %q", st.requester, e.id, e.requesters)
		}
	}
	if !st.call.Out.Build.CancelRequested {
		// The deadline had come before the cancellation, or nobody tells.
		return s.edit(i, func(e *entry) { e.stop = max(e.stop, maybeStopping) }), nil
	}
	if f := st.build.final; f == Succeeded || f == Failed {
		return s, refuse(CancelHolds, "build %s has %s although its cancellation was accepted", e.id, f.verb())
	}
	return s.edit(i, func(e *entry) {
		switch {
		case e.stop == notStopping && !st.call.Op.Operator:
			e.requesters = nil
		case e.stop != surelyStopping: // perhaps an operator stopped it before
			for _, r := range e.requesters {
				e.loose = with(e.loose, r)
			}
		}
		e.stop = surelyStopping
	}), nil
}

// cancelOver is the answer that the build is over: it was before, or this
// cancellation ended it in the queue.
func (s state) cancelOver(i int, st step, others bool) (state, *refusal) {
	e, over := s.entries[i], "a cancellation found it "+string(st.call.Out.Build.Phase)
	next, no := s.end(i, st.build, over)
	switch {
	case no == nil:
		return next, nil
	case others:
		return s, refuse(LastRequester, "%s cancelled build %s although others want it: its requesters are %q", st.requester, e.id, e.requesters)
	case !st.call.Op.Operator && !s.mayFollow(e, st.requester):
		return s, refuse(LastRequester, "%s cancelled build %s without a part in it: its requesters are %q", st.requester, e.id, e.requesters)
	}
	return s.close(i, over), nil
}
