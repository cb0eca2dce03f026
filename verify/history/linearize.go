package history

import (
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// linearizer searches, ref by ref, for an order of the calls in which the model gives the same
// responses.
type linearizer struct {
	e          *evidence
	opts       Options
	deadline   time.Time
	undecided  []string
	visualized bool
	err        error
}

// run judges all refs except the bad ones, and writes the visualization.
func (l *linearizer) run(bad map[string]bool) (out []Violation) {
	steps := l.steps()
	for _, ref := range l.e.refs {
		if bad[ref] {
			if l.opts.Visualization != "" && !l.visualized {
				_, info := l.search(steps[ref])
				l.visualize(info)
			}
			continue
		}
		switch res, info := l.search(steps[ref]); res {
		case porcupine.Illegal:
			v := explain(steps[ref], info)
			v.Ref = ref
			out = append(out, v)
			l.visualize(info)
		case porcupine.Unknown:
			l.undecided = append(l.undecided, ref)
		}
	}
	if l.opts.Visualization != "" && !l.visualized {
		var all []porcupine.Operation
		for _, ref := range l.e.refs {
			all = append(all, steps[ref]...)
		}
		_, info := l.search(all)
		l.visualize(info)
	}
	return out
}

// search searches for an order within the rest of the time limit.
func (l *linearizer) search(ops []porcupine.Operation) (porcupine.CheckResult, porcupine.LinearizationInfo) {
	return porcupine.CheckOperationsVerbose(model, ops, max(time.Until(l.deadline), time.Nanosecond))
}

// visualize writes the visualization, once.
func (l *linearizer) visualize(info porcupine.LinearizationInfo) {
	if l.opts.Visualization == "" || l.visualized {
		return
	}
	l.visualized = true
	if err := porcupine.VisualizePath(model, info, l.opts.Visualization); err != nil {
		l.err = fmt.Errorf("write visualization: %w", err)
	}
}

// model is the model of porcupine over state. The response is part of the step.
var model = porcupine.Model{
	Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
		var parts [][]porcupine.Operation
		byRef := map[string]int{}
		for _, op := range ops {
			ref := op.Input.(*step).ref
			i, ok := byRef[ref]
			if !ok {
				i = len(parts)
				byRef[ref] = i
				parts = append(parts, nil)
			}
			parts[i] = append(parts[i], op)
		}
		return parts
	},
	Init: func() any { return state{} },
	Step: func(s, in, _ any) (bool, any) {
		next, no := s.(state).apply(*in.(*step))
		return no == nil, next
	},
	Equal:             func(a, b any) bool { return a.(state).equal(b.(state)) },
	DescribeOperation: func(in, _ any) string { return in.(*step).String() },
	DescribeState:     func(s any) string { return s.(state).String() },
}

// steps converts the calls of each ref to steps of the model. A step that only adds possible states
// takes place as early as possible, one that only removes them as late as possible; both take no
// time.
func (l *linearizer) steps() map[string][]porcupine.Operation {
	out := map[string][]porcupine.Operation{}
	clients := map[string]int{}
	add := func(st step, from, to int64) {
		id, ok := clients[st.call.Client]
		if !ok {
			id = len(clients)
			clients[st.call.Client] = id
		}
		out[st.ref] = append(out[st.ref], porcupine.Operation{ClientId: id, Input: &st, Call: from, Return: to})
	}
	for _, q := range l.e.requests {
		switch {
		case len(q.responses) > 0:
			r, do := q.responses[0], actionCreate
			if r.Out.Attached {
				do = actionAttach
			}
			add(step{action: do, ref: q.ref, build: l.e.builds[r.Out.Build.ID], requester: q.requester, call: r}, q.start, q.end)
		case q.mayHaveEffect():
			add(step{action: actionMayAttach, ref: q.ref, requester: q.requester, call: q.calls[0]}, q.start, q.start)
		}
	}
	for _, id := range l.e.ids {
		b := l.e.builds[id]
		if !slices.ContainsFunc(b.requests, func(q *request) bool { return !q.responses[0].Out.Attached }) {
			if creators := l.e.mayHaveCreated(b); len(creators) > 0 {
				add(step{action: actionCreate, ref: b.ref, build: b, requester: unknownRequester, call: creators[0].calls[0]}, creators[0].start, b.known)
			}
		}
		if r := b.last; b.final != "" && r.Op.Kind != Cancel && !r.Op.Linearizable {
			add(step{action: actionEnd, ref: b.ref, build: b, call: r}, r.End, r.End)
		}
		for _, r := range b.cancels {
			st := step{action: actionCancel, ref: b.ref, build: b, requester: r.Op.Requester, call: r}
			switch {
			case r.Status == Unknown:
				st.action = actionMayCancel
				add(st, r.Start, r.Start)
			case !r.Out.NotFound || !l.opts.Retention:
				add(st, r.Start, r.End)
				if r.Out.Build.Phase.Terminal() && (r.Out.Build.CancelRequested || b.cancelledByOthers(r)) {
					// A client retries when a response is lost: an earlier try may have been
					// accepted, or have withdrawn one of several requesters, and this one found
					// that the build has ended since.
					st.action = actionMayCancel
					add(st, r.Start, r.Start)
				}
			}
		}
		for _, r := range slices.Concat(b.observations, b.missing) {
			if r.Op.Kind == Read && r.Op.Linearizable && (!r.Out.NotFound || !l.opts.Retention) {
				add(step{action: actionRead, ref: b.ref, build: b, call: r}, r.Start, r.End)
			}
		}
	}
	return out
}

// cancelledByOthers reports whether another requester, or an operator, may have cancelled the build
// before a call ended.
func (b *build) cancelledByOthers(call Record) bool {
	return slices.ContainsFunc(b.cancels, func(r Record) bool {
		return r.Start < call.End && (r.Op.Operator || r.Op.Requester != call.Op.Requester)
	})
}
