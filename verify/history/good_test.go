package history_test

import (
	"testing"

	. "github.com/image-builder-ha/image-builder/verify/history"
)

// Test_Check_Accepts holds histories that a correct service can produce.
func Test_Check_Accepts(t *testing.T) {
	for name, f := range map[string]func(script){
		"nothing": func(script) {},
		"a build and a request that attaches": func(s script) {
			s.do(create("a", "1"), createdAt("x", 5))
			s.do(create("b", "1"), attached("x"))
			s.do(read("x"), isAt("x", Running, 7))
			s.do(wait("x"), succeeded("x", "sha256:1"))
		},
		"a forced request waits for the build that runs": func(s script) {
			s.do(create("a", "1"), createdAt("x", 5))
			s.do(read("x"), isAt("x", Running, 6))
			s.do(forced(create("b", "1")), createdAt("y", 8))
			s.do(create("c", "1"), attached("x"))
			s.do(forced(create("d", "1")), Outcome{Build: BuildState{ID: "y", Phase: Queued}, Attached: true})
			s.do(linearizableRead("x"), isAt("x", Running, 9))
			s.do(wait("x"), isAt("x", Succeeded, 10))
			s.do(linearizableRead("y"), isAt("y", Running, 12))
			s.do(wait("y"), isAt("y", Succeeded, 13))
		},
		"both requesters repeat cancellations whose responses are lost": func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(create("b", "1"), attached("x"))
			first := s.begin(stop("x", "a"))
			second := s.begin(stop("x", "b"))
			s.do(wait("x"), is("x", Cancelled))
			s.do(create("c", "1"), created("y"))
			first.End(is("x", Cancelled))
			second.End(is("x", Cancelled))
			s.do(wait("y"), is("y", Succeeded))
		},
		"a second build after the first": func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(wait("x"), is("x", Failed))
			s.do(create("a", "2"), created("y"))
			s.do(wait("y"), is("y", Succeeded))
		},
		"the end is observed late": func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(create("a", "2"), created("y"))
			s.do(wait("x"), is("x", Failed))
			s.do(wait("y"), is("y", Succeeded))
		},
		"a success during the request satisfies it": func(s script) {
			s.do(create("a", "1"), created("x"))
			late := s.begin(create("b", "1"))
			s.do(wait("x"), is("x", Succeeded))
			late.End(Outcome{Build: BuildState{ID: "x", Phase: Succeeded}, Attached: true})
		},
		"the image exists": func(s script) {
			s.do(create("a", "1"), Outcome{Exists: true})
			s.do(forced(create("a", "2")), created("x"))
			s.do(wait("x"), is("x", Succeeded))
		},
		"a retry after a lost response": func(s script) {
			s.begin(create("a", "1")).Unknown(errLost)
			s.do(create("b", "1"), attached("x"))
			s.do(create("a", "1"), created("x"))
			s.do(create("a", "1"), is("x", Running))
			s.do(wait("x"), is("x", Succeeded))
		},
		"a retry after a lost response finds the image": func(s script) {
			retried := s.begin(create("a", "1"))
			s.do(create("b", "1"), attached("x"))
			s.do(wait("x"), is("x", Succeeded))
			retried.End(Outcome{Exists: true})
		},
		"a build whose creation no response shows": func(s script) {
			s.begin(create("a", "1")).Unknown(errLost)
			s.do(create("b", "1"), attached("x"))
			s.do(stop("x", "b"), Outcome{Build: BuildState{ID: "x", Phase: Running}, Detached: true})
			s.do(wait("x"), is("x", Succeeded))
		},
		"a failed request without effect": func(s script) {
			s.begin(create("a", "1")).Failed(errLost)
			s.do(create("a", "1"), created("x"))
			s.do(wait("x"), is("x", Succeeded))
		},
		"a cancellation is accepted, read, and gets its response after the end of the build": func(s script) {
			s.do(create("a", "1"), created("x"))
			cancellation := s.begin(stop("x", "a"))
			s.do(linearizableRead("x"), stopping("x", Running))
			cancellation.End(stopping("x", Cancelled))
			s.do(linearizableRead("x"), stopping("x", Cancelled))
		},
		"a cancellation in the queue": func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(stop("x", "a"), is("x", Cancelled))
			s.do(create("a", "2"), created("y"))
			s.do(wait("y"), is("y", Succeeded))
		},
		"a successor waits for a build that stops": func(s script) {
			s.do(create("a", "1"), createdAt("x", 5))
			s.do(stop("x", "a"), stopping("x", Running))
			s.do(create("b", "1"), createdAt("y", 8))
			s.do(create("c", "1"), attached("y"))
			s.do(linearizableRead("x"), stopping("x", Running))
			s.do(wait("x"), is("x", Cancelled))
			s.do(linearizableRead("y"), is("y", Running))
			s.do(wait("y"), is("y", Succeeded))
		},
		"a successor is cancelled and has a successor": func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(stop("x", "a"), stopping("x", Running))
			s.do(create("b", "1"), created("y"))
			s.do(stop("y", "b"), is("y", Cancelled))
			s.do(create("c", "1"), created("z"))
			s.do(linearizableRead("x"), stopping("x", Running))
			s.do(wait("x"), is("x", Cancelled))
			s.do(wait("z"), is("z", Succeeded))
		},
		"an operator stops a build of other requesters": func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(create("b", "1"), attached("x"))
			s.do(Operation{Kind: Cancel, ID: "x", Operator: true}, stopping("x", Running))
			s.do(stop("x", "a"), Outcome{Build: BuildState{ID: "x"}, Detached: true})
			s.do(wait("x"), is("x", Cancelled))
		},
		"detached, then the last requester": func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(create("b", "1"), attached("x"))
			s.do(stop("x", "a"), Outcome{Build: BuildState{ID: "x", Phase: Running}, Detached: true})
			s.do(stop("x", "a"), Outcome{Build: BuildState{ID: "x", Phase: Running}, Detached: true})
			s.do(stop("x", "b"), stopping("x", Running))
			s.do(wait("x"), is("x", Cancelled))
		},
		"a cancellation of unknown outcome stops a build": func(s script) {
			s.do(create("a", "1"), created("x"))
			s.begin(stop("x", "a")).Unknown(errLost)
			s.do(linearizableRead("x"), is("x", Running))
			s.do(create("b", "1"), created("y"))
			s.do(wait("x"), is("x", Cancelled))
			s.do(wait("y"), is("y", Succeeded))
		},
		"a cancellation of unknown outcome does nothing": func(s script) {
			s.do(create("a", "1"), created("x"))
			s.begin(stop("x", "a")).Unknown(errLost)
			s.do(create("b", "1"), attached("x"))
			s.do(wait("x"), is("x", Succeeded))
		},
		"too late": func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(stop("x", "a"), Outcome{TooLate: true})
			s.do(wait("x"), is("x", Succeeded))
		},
		"a deadline allows a successor": func(s script) {
			s.do(create("a", "1"), Outcome{Build: BuildState{ID: "x", Phase: Queued, CreatedAt: 10}})
			s.do(create("b", "1"), Outcome{Build: BuildState{ID: "y", Phase: Queued, CreatedAt: 20}})
			s.do(linearizableRead("x"), is("x", Running))
			s.do(wait("x"), Outcome{Build: BuildState{ID: "x", Phase: Failed, CreatedAt: 10, EndedAt: 30, Overdue: true}})
			s.do(wait("y"), is("y", Succeeded))
		},
		"stale reads without a promise of freshness": func(s script) {
			s.do(create("a", "1"), createdAt("x", 5))
			s.do(read("x"), isAt("x", Succeeded, 9))
			s.do(read("x"), isAt("x", Running, 7))
			s.do(readSince("x", 5), isAt("x", Queued, 5))
		},
		"a retry goes back to the queue": func(s script) {
			s.do(create("a", "1"), createdAt("x", 5))
			s.do(linearizableRead("x"), isAt("x", Running, 7))
			s.do(linearizableRead("x"), isAt("x", Queued, 8))
			s.do(linearizableRead("x"), isAt("x", Succeeded, 12))
		},
		"a linearizable read concurrent with the end": func(s script) {
			s.do(create("a", "1"), created("x"))
			r := s.begin(linearizableRead("x"))
			s.do(wait("x"), is("x", Succeeded))
			r.End(is("x", Running))
		},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Check(write(f)); err != nil {
				t.Fatal(err)
			}
		})
	}
}
