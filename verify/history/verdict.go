package history

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Invariant names what a history violates.
type Invariant string

// The invariants, as the service's documentation promises them.
const (
	// OneActive: while a build of a ref is active, no other one is.
	OneActive Invariant = "one active build per ref"
	// AttachActive: requests attach to a build that is active, or that
	// succeeded while they looked for the image.
	AttachActive Invariant = "requests attach to active builds"
	// OncePerRequest: one request id has one answer.
	OncePerRequest Invariant = "one build per request id"
	// AskedFor: every build and every existing image comes from a request.
	AskedFor Invariant = "every build was asked for"
	// NeverLost: an acknowledged build is found.
	NeverLost Invariant = "acknowledged builds are found"
	// Ends: an acknowledged build reaches a terminal phase.
	Ends Invariant = "acknowledged builds end"
	// Final: a terminal phase stays.
	Final Invariant = "terminal phases stay"
	// OneDigest: a build has one image.
	OneDigest Invariant = "one digest per build"
	// CancelHolds: a build whose cancellation was accepted does not succeed,
	// and only a cancellation cancels a build.
	CancelHolds Invariant = "cancellations hold"
	// LastRequester: a requester's cancellation stops the build only if nobody
	// else wants it.
	LastRequester Invariant = "the last requester stops a build"
	// FreshReads: an answer is as new as its min_index, and one version of a
	// build looks the same to everybody.
	FreshReads Invariant = "reads are as new as they promise"
	// LinearizableReads: a linearizable read shows all that was known when it
	// started.
	LinearizableReads Invariant = "linearizable reads are not stale"
	// Linearizable: some order of the calls explains all answers.
	Linearizable Invariant = "the history is linearizable"
)

// Violation is one finding.
type Violation struct {
	Invariant Invariant
	Ref       string
	// Message says what is wrong.
	Message string
	// Calls are the calls that show it, in the order of their starts.
	Calls []Record
}

// Error renders the finding with its calls.
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

// seenAt is when the violation was complete.
func (v Violation) seenAt() int64 {
	var t int64
	for _, c := range v.Calls {
		t = max(t, c.End, c.Start)
	}
	return t
}

// ErrUndecided: the time limit ended the search for a violation.
var ErrUndecided = errors.New("the time limit was too short to judge the history")

// Verdict is what Judge found out.
type Verdict struct {
	// Violations in the order in which they were complete.
	Violations []Violation
	// Undecided are the refs for which the time limit was too short.
	Undecided []string
	// Calls and Refs tell how much was judged.
	Calls, Refs int
	// VisualizationErr tells why the visualization could not be written.
	VisualizationErr error
}

// Err answers the first violation, ErrUndecided, what went wrong with the
// visualization, or nil for a good history.
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

// Options change how a history is judged. The zero value is the strictest.
type Options struct {
	// Timeout limits the search for an order of the calls; 0 means a minute.
	Timeout time.Duration
	// Visualization is a file for porcupine's interactive page: of the first
	// ref with a violation or, if all is well, of the whole history.
	Visualization string
	// Unfinished: the history stops in the middle, builds may be active.
	Unfinished bool
	// Retention: ended builds may have been removed before the end.
	Retention bool
}

// Check judges a finished history with the default options.
func Check(h History) error { return Judge(h, Options{}).Err() }

// Judge judges a history. The order of the calls is searched only for refs
// that violate nothing else: its explanation is the least direct one.
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
	l := linearizer{e: e, o: o, deadline: time.Now().Add(o.Timeout)}
	v.Violations = append(all, l.run(bad)...)
	v.Undecided, v.VisualizationErr = l.undecided, l.err
	for i := range v.Violations {
		slices.SortFunc(v.Violations[i].Calls, func(a, b Record) int { return int(a.Start - b.Start) })
	}
	slices.SortStableFunc(v.Violations, func(a, b Violation) int { return int(a.seenAt() - b.seenAt()) })
	return v
}
