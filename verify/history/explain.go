package history

import (
	"fmt"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// explained is how many earlier calls an explanation shows at most.
const explained = 8

// explain tells where the search for an order of one ref's calls got stuck:
// at the call that has to come next after the longest order found.
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
	stuck := firstLeft(ops, done)
	if stuck == nil {
		return Violation{Invariant: Linearizable, Message: "no order of the calls explains their answers"}
	}
	v := Violation{Invariant: Linearizable, Message: fmt.Sprintf("no order of the calls explains the answer to %s", stuck)}
	if _, no := s.apply(*stuck); no != nil {
		v.Invariant, v.Message = no.invariant, no.why
	}
	v.Message += fmt.Sprintf("; the model was at %s", s)
	v.Calls = relevant(order, stuck)
	return v
}

// firstLeft answers the step without a place that returned first.
func firstLeft(ops []porcupine.Operation, done map[*step]bool) (left *step) {
	var first int64
	for _, op := range ops {
		if st := op.Input.(*step); !done[st] && (left == nil || op.Return < first) {
			left, first = st, op.Return
		}
	}
	return left
}

// relevant answers the calls that an explanation needs: those that made the
// last builds, and those about the build at hand.
func relevant(order []*step, stuck *step) []Record {
	var out []Record
	seen := map[int64]bool{stuck.call.Start: true}
	for _, st := range slices.Backward(order) {
		about := st.build != nil && stuck.build != nil && st.build == stuck.build
		if len(out) < explained && (about || st.action == makes) && !seen[st.call.Start] {
			seen[st.call.Start] = true
			out = append(out, st.call)
		}
	}
	return append(out, stuck.call)
}

// String describes the step in visualizations.
func (st *step) String() string {
	if st.action == isOver {
		return fmt.Sprintf("%s is over: %s", st.build.id, st.build.final)
	}
	if st.action == makes && st.requester == unknownRequester {
		return fmt.Sprintf("%s is made by a request of unknown outcome", st.build.id)
	}
	return fmt.Sprintf("%s -> %s", st.call.Op, st.call.answer())
}

// String describes the state of a ref.
func (s state) String() string {
	var parts []string
	for _, e := range s.entries {
		p := e.id
		switch {
		case e.over:
			p += " over"
		case e.stop == surelyStopping:
			p += " stopping"
		case e.stop == maybeStopping:
			p += " perhaps stopping"
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
