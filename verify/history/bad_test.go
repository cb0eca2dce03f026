package history_test

import (
	"testing"

	. "github.com/image-builder-ha/image-builder/verify/history"
)

// Test_Check_Rejects holds histories that no correct service can produce.
func Test_Check_Rejects(t *testing.T) {
	for name, c := range map[string]struct {
		invariant Invariant
		f         func(script)
	}{
		"two active builds, by a linearizable read": {OneActive, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(create("b", "1"), created("y"))
			s.do(linearizableRead("x"), is("x", Running))
			s.do(wait("x"), is("x", Succeeded))
			s.do(wait("y"), is("y", Succeeded))
		}},
		"two active builds, by an attached request": {OneActive, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(create("b", "1"), created("y"))
			s.do(create("c", "1"), attached("x"))
			s.do(wait("x"), is("x", Succeeded))
			s.do(wait("y"), is("y", Succeeded))
		}},
		"two active builds, by versions": {OneActive, func(s script) {
			s.do(create("a", "1"), createdAt("x", 5))
			s.do(create("b", "1"), createdAt("y", 6))
			s.do(read("x"), isAt("x", Running, 7))
			s.do(wait("x"), is("x", Succeeded))
			s.do(wait("y"), is("y", Succeeded))
		}},
		"two active builds, by the service's clock": {OneActive, func(s script) {
			s.do(create("a", "1"), Outcome{Build: BuildState{ID: "x", Phase: Queued, CreatedAt: 10}})
			s.do(create("b", "1"), Outcome{Build: BuildState{ID: "y", Phase: Queued, CreatedAt: 20}})
			s.do(wait("x"), Outcome{Build: BuildState{ID: "x", Phase: Succeeded, EndedAt: 30}})
			s.do(wait("y"), is("y", Succeeded))
		}},
		"a successor runs beside the build that stops": {OneActive, func(s script) {
			s.do(create("a", "1"), createdAt("x", 5))
			s.do(stop("x", "a"), stopping("x", Running))
			s.do(create("b", "1"), createdAt("y", 8))
			s.do(read("y"), isAt("y", Running, 9))
			s.do(read("x"), Outcome{Build: BuildState{ID: "x", Phase: Running, CancelRequested: true, Version: 10}})
			s.do(wait("x"), is("x", Cancelled))
			s.do(wait("y"), is("y", Succeeded))
		}},
		"attached to a build that failed before": {AttachActive, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(wait("x"), is("x", Failed))
			s.do(create("b", "1"), attached("x"))
		}},
		"attached to a build that succeeded before": {AttachActive, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(wait("x"), is("x", Succeeded))
			s.do(create("b", "1"), attached("x"))
		}},
		"attached to a build that stops": {AttachActive, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(stop("x", "a"), stopping("x", Running))
			s.do(create("b", "1"), attached("x"))
			s.do(wait("x"), is("x", Cancelled))
		}},
		"a request id with two builds": {OncePerRequest, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(wait("x"), is("x", Succeeded))
			s.do(create("a", "1"), created("y"))
			s.do(wait("y"), is("y", Succeeded))
		}},
		"a request id that created and attached": {OncePerRequest, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(create("a", "1"), attached("x"))
			s.do(wait("x"), is("x", Succeeded))
		}},
		"a request id for two refs": {OncePerRequest, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(Operation{Kind: Create, Ref: "r:2", Requester: "a", RequestID: "1"}, created("x"))
			s.do(wait("x"), is("x", Succeeded))
		}},
		"one build for two refs": {AskedFor, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(Operation{Kind: Create, Ref: "r:2", Requester: "b", RequestID: "1"}, attached("x"))
			s.do(wait("x"), is("x", Succeeded))
		}},
		"a build created twice": {AskedFor, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(create("b", "1"), created("x"))
			s.do(wait("x"), is("x", Succeeded))
		}},
		"a build that no request created": {AskedFor, func(s script) {
			s.do(create("a", "1"), attached("x"))
			s.do(wait("x"), is("x", Succeeded))
		}},
		"a forced build runs beside another": {OneActive, func(s script) {
			s.do(create("a", "1"), createdAt("x", 5))
			s.do(forced(create("b", "1")), createdAt("y", 8))
			s.do(read("y"), isAt("y", Running, 9))
			s.do(read("x"), isAt("x", Running, 10))
			s.do(wait("x"), isAt("x", Succeeded, 11))
			s.do(wait("y"), isAt("y", Succeeded, 12))
		}},
		"a forced build runs beside another, by linearizable reads": {OneActive, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(forced(create("b", "1")), created("y"))
			s.do(linearizableRead("y"), is("y", Running))
			s.do(linearizableRead("x"), is("x", Running))
			s.do(wait("x"), is("x", Succeeded))
			s.do(wait("y"), is("y", Succeeded))
		}},
		"a forced request whose image exists": {AskedFor, func(s script) {
			s.do(forced(create("a", "1")), Outcome{Exists: true})
		}},
		"an acknowledged build is lost": {NeverLost, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(read("x"), Outcome{NotFound: true})
			s.do(wait("x"), is("x", Succeeded))
		}},
		"an acknowledged build is lost to a cancellation": {NeverLost, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(stop("x", "a"), Outcome{NotFound: true})
			s.do(wait("x"), is("x", Succeeded))
		}},
		"an acknowledged build never ends": {Ends, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(read("x"), is("x", Running))
		}},
		"a terminal phase that changed": {Final, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(wait("x"), is("x", Succeeded))
			s.do(read("x"), is("x", Failed))
		}},
		"a build that continues after its end": {Final, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(wait("x"), isAt("x", Failed, 9))
			s.do(read("x"), isAt("x", Running, 10))
		}},
		"two digests": {OneDigest, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(wait("x"), succeeded("x", "sha256:1"))
			s.do(wait("x"), succeeded("x", "sha256:2"))
		}},
		"success after cancelled": {CancelHolds, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(stop("x", "a"), stopping("x", Running))
			s.do(wait("x"), is("x", Succeeded))
		}},
		"cancelled without a cancellation": {CancelHolds, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(create("b", "1"), attached("x"))
			s.do(stop("x", "a"), Outcome{Build: BuildState{ID: "x"}, Detached: true})
			s.do(wait("x"), is("x", Cancelled))
		}},
		"cancelled before the cancellation": {CancelHolds, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(create("a", "2"), created("y"))
			s.do(stop("x", "a"), is("x", Cancelled))
			s.do(wait("y"), is("y", Succeeded))
		}},
		"stopped although it has another requester": {LastRequester, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(create("b", "1"), attached("x"))
			s.do(stop("x", "a"), stopping("x", Running))
			s.do(wait("x"), is("x", Cancelled))
		}},
		"stopped in the queue although it has another requester": {LastRequester, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(create("b", "1"), attached("x"))
			s.do(stop("x", "a"), is("x", Cancelled))
		}},
		"detached although it has no other requester": {LastRequester, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(stop("x", "a"), Outcome{Build: BuildState{ID: "x"}, Detached: true})
			s.do(wait("x"), is("x", Succeeded))
		}},
		"stopped by a client that is no requester": {LastRequester, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(stop("x", "b"), stopping("x", Running))
			s.do(wait("x"), is("x", Cancelled))
		}},
		"a stale linearizable read": {LinearizableReads, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(wait("x"), is("x", Succeeded))
			s.do(linearizableRead("x"), is("x", Running))
		}},
		"a stale linearizable read, by version": {LinearizableReads, func(s script) {
			s.do(create("a", "1"), createdAt("x", 5))
			s.do(read("x"), isAt("x", Running, 8))
			s.do(linearizableRead("x"), isAt("x", Queued, 7))
			s.do(wait("x"), is("x", Succeeded))
		}},
		"a linearizable read without an accepted cancellation": {LinearizableReads, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(stop("x", "a"), stopping("x", Running))
			s.do(linearizableRead("x"), is("x", Running))
			s.do(wait("x"), is("x", Cancelled))
		}},
		"older than min_index, by version": {FreshReads, func(s script) {
			s.do(create("a", "1"), createdAt("x", 5))
			s.do(read("x"), isAt("x", Running, 8))
			s.do(readSince("x", 8), isAt("x", Queued, 5))
			s.do(wait("x"), is("x", Succeeded))
		}},
		"older than min_index, by phase": {FreshReads, func(s script) {
			s.do(create("a", "1"), created("x"))
			s.do(wait("x"), Outcome{Build: BuildState{ID: "x", Phase: Succeeded}, Index: 9})
			s.do(readSince("x", 9), Outcome{Build: BuildState{ID: "x", Phase: Running}, Index: 9})
		}},
		"a response from before min_index": {FreshReads, func(s script) {
			s.do(create("a", "1"), createdAt("x", 5))
			s.do(readSince("x", 9), Outcome{Build: BuildState{ID: "x", Phase: Queued}, Index: 8})
			s.do(wait("x"), is("x", Succeeded))
		}},
		"one version, two phases": {FreshReads, func(s script) {
			s.do(create("a", "1"), createdAt("x", 5))
			s.do(read("x"), isAt("x", Running, 8))
			s.do(read("x"), isAt("x", Pushing, 8))
			s.do(wait("x"), is("x", Succeeded))
		}},
	} {
		t.Run(name, func(t *testing.T) { rejects(t, write(c.f), Options{}, c.invariant) })
	}
}
