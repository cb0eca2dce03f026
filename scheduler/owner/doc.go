// Package owner runs the attempts that the replicated state assigns to this node. The node is then
// the owner of the attempt: it writes the log, starts or adopts the workload, tags the image, and
// commits how the attempt ended. The package also seals the logs of dead attempts, and repairs the
// copies of complete logs.
//
// The package does not choose its work: the leader assigns attempts (package scheduler). It does
// not execute builds: a workload.Runtime does. It does not decide whether a build gets another
// attempt: package builds does. DESIGN.md has the invariants of the package and the reasons for
// them.
//
// Files, from the top down:
//
//	loop.go      follows the state: starts and cancels attempts, seals and completes logs
//	run.go       one attempt, from its assignment to its end
//	finish.go    the end of an attempt: its message, its log, its commit
//	publish.go   tags of an image, and their repair by a former owner
//	copies.go    the copies of the log of a live attempt
//	seal_log.go  logs of dead attempts
//	repair.go    lost copies of complete logs
//	damage.go    damaged copies of complete logs
//	trace.go     spans of an attempt
//	copyset.go   which copies count, and which nodes can hold one
//	attempt.go   an attempt on its owner, and its commits
//	sink.go      output and progress of a workload
//	owner.go     Owner and its options
package owner
