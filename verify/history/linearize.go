package history

import (
	"fmt"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// linearizer looks, ref by ref, for an order of the calls that the model
// would have answered alike.
type linearizer struct {
	e         *evidence
	o         Options
	deadline  time.Time
	undecided []string
	pictured  bool
	err       error
}

// run judges all refs but the bad ones and draws the visualization.
func (l *linearizer) run(bad map[string]bool) (out []Violation) {
	steps := l.steps()
	for _, ref := range l.e.refs {
		if bad[ref] {
			if l.o.Visualization != "" && !l.pictured {
				_, info := l.search(steps[ref])
				l.picture(info)
			}
			continue
		}
		switch res, info := l.search(steps[ref]); res {
		case porcupine.Illegal:
			v := explain(steps[ref], info)
			v.Ref = ref
			out = append(out, v)
			l.picture(info)
		case porcupine.Unknown:
			l.undecided = append(l.undecided, ref)
		}
	}
	if l.o.Visualization != "" && !l.pictured {
		var all []porcupine.Operation
		for _, ref := range l.e.refs {
			all = append(all, steps[ref]...)
		}
		_, info := l.search(all)
		l.picture(info)
	}
	return out
}

// search looks for an order within what is left of the time limit.
func (l *linearizer) search(ops []porcupine.Operation) (porcupine.CheckResult, porcupine.LinearizationInfo) {
	return porcupine.CheckOperationsVerbose(model, ops, max(time.Until(l.deadline), time.Nanosecond))
}

func (l *linearizer) picture(info porcupine.LinearizationInfo) {
	if l.o.Visualization == "" || l.pictured {
		return
	}
	l.pictured = true
	if err := porcupine.VisualizePath(model, info, l.o.Visualization); err != nil {
		l.err = fmt.Errorf("write visualization: %w", err)
	}
}

// model wraps state for porcupine. The answer is part of the step.
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

// steps turns the calls of each ref into steps of the model. What can only
// widen the possibilities comes as early as possible, what can only narrow
// them as late as possible; both take no time.
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
		case len(q.answers) > 0:
			r, do := q.answers[0], makes
			if r.Out.Attached {
				do = joins
			}
			add(step{action: do, ref: q.ref, build: l.e.builds[r.Out.Build.ID], requester: q.requester, call: r}, q.start, q.end)
		case q.maybe():
			add(step{action: mayJoin, ref: q.ref, requester: q.requester, call: q.calls[0]}, q.start, q.start)
		}
	}
	for _, id := range l.e.ids {
		b := l.e.builds[id]
		if !slices.ContainsFunc(b.requests, func(q *request) bool { return !q.answers[0].Out.Attached }) {
			if makers := l.e.mayHaveMade(b); len(makers) > 0 {
				add(step{action: makes, ref: b.ref, build: b, requester: unknownRequester, call: makers[0].calls[0]}, makers[0].start, b.known)
			}
		}
		if r := b.last; b.final != "" && r.Op.Kind != Cancel && !r.Op.Linearizable {
			add(step{action: isOver, ref: b.ref, build: b, call: r}, r.End, r.End)
		}
		for _, r := range b.cancels {
			st := step{action: cancels, ref: b.ref, build: b, requester: r.Op.Requester, call: r}
			switch {
			case r.Status == Unknown:
				st.action = mayCancel
				add(st, r.Start, r.Start)
			case !r.Out.NotFound || !l.o.Retention:
				add(st, r.Start, r.End)
				if r.Out.Build.Phase.Terminal() && r.Out.Build.CancelRequested {
					// A client asks again when an answer is lost: an earlier try was
					// accepted, this one found that the build was over since.
					st.action = mayCancel
					add(st, r.Start, r.Start)
				}
			}
		}
		for _, r := range slices.Concat(b.sights, b.missing) {
			if r.Op.Kind == Read && r.Op.Linearizable && (!r.Out.NotFound || !l.o.Retention) {
				add(step{action: looks, ref: b.ref, build: b, call: r}, r.Start, r.End)
			}
		}
	}
	return out
}
