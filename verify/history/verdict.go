package history

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Invariant is a guarantee of the service's documentation that a history can violate. Its text
// appears in reports.
type Invariant string

// The invariants.
const (
	// OneActive says that at most one build of a ref is active.
	OneActive Invariant = "one active build per ref"
	// AttachActive says that requests attach only to a build that is active, or that succeeded
	// during the request.
	AttachActive Invariant = "requests attach to active builds"
	// OncePerRequest says that all calls with one request id get the same response.
	OncePerRequest Invariant = "one build per request id"
	// AskedFor says that every build comes from a request, and that a forced request never gets the
	// response that the image exists.
	AskedFor Invariant = "every build was asked for"
	// NeverLost says that calls find an acknowledged build.
	NeverLost Invariant = "acknowledged builds are found"
	// Ends says that an acknowledged build reaches a terminal phase.
	Ends Invariant = "acknowledged builds end"
	// Final says that a terminal phase does not change.
	Final Invariant = "terminal phases stay"
	// OneDigest says that a build has one image.
	OneDigest Invariant = "one digest per build"
	// CancelHolds says that a build does not succeed after its cancellation was accepted, and that
	// only a cancellation cancels a build.
	CancelHolds Invariant = "cancellations hold"
	// LastRequester says that the cancellation of a requester stops a build only if it has no other
	// requester.
	LastRequester Invariant = "the last requester stops a build"
	// FreshReads says that a read is as new as its min_index, and that one version of a build is the
	// same in all responses.
	FreshReads Invariant = "reads are as new as they promise"
	// LinearizableReads says that a linearizable read shows everything that a response showed before
	// its start.
	LinearizableReads Invariant = "linearizable reads are not stale"
	// Linearizable says that an order of the calls explains all responses.
	Linearizable Invariant = "the history is linearizable"
)

// Violation is one violation of an invariant.
type Violation struct {
	Invariant Invariant
	Ref       string
	// Message describes the violation.
	Message string
	// Calls are the calls that show the violation, in the order of their starts.
	Calls []Record
}

// Error renders the violation with its calls.
func (v Violation) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is violated: %s", v.Invariant, v.Message)
	if v.Ref != "" {
		fmt.Fprintf(&b, " (ref %s)", v.Ref)
	}
	for _, c := range v.Calls {
		fmt.Fprintf(&b, "\n  %s", c)
	}
	return b.String()
}

// completeAt returns the moment at which the last of its calls ended.
func (v Violation) completeAt() int64 {
	var t int64
	for _, c := range v.Calls {
		t = max(t, c.End, c.Start)
	}
	return t
}

// ErrUndecided reports that the time limit ended the search for a violation.
var ErrUndecided = errors.New("the time limit was too short to judge the history")

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

// Options configure Judge. The zero value is the strictest.
type Options struct {
	// Timeout limits the search for an order of the calls; a minute if zero.
	Timeout time.Duration
	// Visualization is the file to which Judge writes porcupine's interactive page: of the first ref
	// with a violation or, if there is none, of the whole history. No page if empty.
	Visualization string
	// Unfinished is set if the history stops early, so that builds may be active at its end.
	Unfinished bool
	// Retention is set if the service may have removed ended builds before the end.
	Retention bool
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
