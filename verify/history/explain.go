package history

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// maxExplained is the greatest number of earlier calls in an explanation.
const maxExplained = 8

// explain describes why the search for an order of one ref's calls failed: it names the call that
// must come next after the longest order that was found.
func explain(ops []porcupine.Operation, info porcupine.LinearizationInfo) Violation {
	var order []*step
	done := map[*step]bool{}
	if parts := info.PartialLinearizationsOperations(); len(parts) > 0 {
		for _, partial := range parts[0] {
			if len(partial) <= len(order) {
				continue
			}
			order = order[:0]
			for _, op := range partial {
				order = append(order, op.Input.(*step))
			}
		}
	}
	var s state
	for _, st := range order {
		done[st] = true
		s, _ = s.apply(*st)
	}
	stuck := firstUnordered(ops, done)
	if stuck == nil {
		return Violation{Invariant: Linearizable, Message: "no order of the calls explains their responses"}
	}
	v := Violation{Invariant: Linearizable, Message: fmt.Sprintf("no order of the calls explains the response to %s", stuck)}
	if _, no := s.apply(*stuck); no != nil {
		v.Invariant, v.Message = no.invariant, no.why
	}
	v.Message += fmt.Sprintf("; the state of the model was %s", s)
	v.Calls = relevant(order, stuck)
	return v
}

// firstUnordered returns the step that returned first among those that are not in the order.
func firstUnordered(ops []porcupine.Operation, done map[*step]bool) (left *step) {
	var first int64
	for _, op := range ops {
		if st := op.Input.(*step); !done[st] && (left == nil || op.Return < first) {
			left, first = st, op.Return
		}
	}
	return left
}

// relevant returns the calls that an explanation needs: those that created the last builds, and
// those about the build of the failed step.
func relevant(order []*step, stuck *step) []Record {
	var out []Record
	seen := map[int64]bool{stuck.call.Start: true}
	for _, st := range slices.Backward(order) {
		about := st.build != nil && stuck.build != nil && st.build == stuck.build
		if len(out) < maxExplained && (about || st.action == actionCreate) && !seen[st.call.Start] {
			seen[st.call.Start] = true
			out = append(out, st.call)
		}
	}
	return append(out, stuck.call)
}

// String renders the step for visualizations.
func (st *step) String() string {
	if st.action == actionEnd {
		return fmt.Sprintf("%s has ended: %s", st.build.id, st.build.final)
	}
	if st.action == actionCreate && st.requester == unknownRequester {
		return fmt.Sprintf("%s is created by a request of unknown outcome", st.build.id)
	}
	return fmt.Sprintf("%s -> %s", st.call.Op, st.call.response())
}

// String renders the state of a ref.
func (s state) String() string {
	var parts []string
	for _, e := range s.entries {
		p := e.id
		switch {
		case e.over:
			p += " ended"
		case e.stop == certainlyStopping:
			p += " stopping"
		case e.stop == maybeStopping:
			p += " possibly stopping"
		default:
			p += fmt.Sprintf(" active for %q", e.requesters)
		}
		parts = append(parts, p)
	}
	if n := len(parts); n > 4 {
		parts = append([]string{fmt.Sprintf("%d more", n-4)}, parts[n-4:]...)
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
