package history

import (
	"fmt"
	"slices"
	"time"
)

// Verdict is the result of Judge.
type Verdict struct {
	// Violations are the violations, in the order in which they became complete.
	Violations []Violation
	// Undecided are the refs for which the time limit was too short.
	Undecided []string
	// Calls and Refs are the numbers of judged calls and refs.
	Calls, Refs int
	// VisualizationErr is the error of writing the visualization.
	VisualizationErr error
}

// Err returns the first violation, else ErrUndecided, else the error of the visualization, else
// nil.
func (v Verdict) Err() error {
	switch n := len(v.Violations); {
	case n == 1:
		return v.Violations[0]
	case n > 1:
		return fmt.Errorf("%w\n(%d more violations follow)", v.Violations[0], n-1)
	case len(v.Undecided) > 0:
		return fmt.Errorf("%w: %d of %d refs are open, the first is %s", ErrUndecided, len(v.Undecided), v.Refs, v.Undecided[0])
	}
	return v.VisualizationErr
}

// Check judges a finished history with the default options. It returns nil if the history violates
// no invariant.
func Check(h History) error { return Judge(h, Options{}).Err() }

// Judge judges a history. It searches for an order of the calls only for refs that violate no other
// invariant, because the explanation of that search is the least direct one.
func Judge(h History, o Options) Verdict {
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	e := gather(h)
	var all []Violation
	for _, check := range []func(*evidence, Options) []Violation{
		checkRequests, checkOrigins, checkFinal, checkCancels, checkEnds, checkAttached, checkOverlaps, checkFound, checkFresh,
	} {
		all = append(all, check(e, o)...)
	}
	v := Verdict{Calls: len(h), Refs: len(e.refs)}
	bad := map[string]bool{}
	for _, f := range all {
		bad[f.Ref] = true
	}
	l := linearizer{e: e, opts: o, deadline: time.Now().Add(o.Timeout)}
	v.Violations = append(all, l.run(bad)...)
	v.Undecided, v.VisualizationErr = l.undecided, l.err
	for i := range v.Violations {
		slices.SortFunc(v.Violations[i].Calls, func(a, b Record) int { return int(a.Start - b.Start) })
	}
	slices.SortStableFunc(v.Violations, func(a, b Violation) int { return int(a.completeAt() - b.completeAt()) })
	return v
}
