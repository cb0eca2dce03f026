package history

import (
	"errors"
	"fmt"
	"strings"
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
