// Package scheduler is the work of the leader: it decides from the replicated state which build
// starts next and on which node, which attempts end with their node, and what the history no longer
// keeps. The decisions are pure functions of the state and of the health of the nodes. The loop of
// the leader commits them as commands, which Apply checks again.
//
// The package runs no attempt: package owner does, on every node. It executes no build and knows no
// registry, BuildKit or Kubernetes: the runtimes below this directory do, behind the contract of
// package workload. The leader reaches runtimes only through the Reaper, which stops workloads
// without an attempt. Cached references have a leader of their own, in package refcache.
//
// Files, from the top down:
//
//	leader.go     the loop of the leader: decides and commits
//	waiting.go    the reason why a queued build waits
//	trace.go      spans of decisions and of builds
//	decide.go     the decision: which attempts start where
//	place.go      the node of an attempt
//	revoke.go     attempts that their owners do not end
//	nodes.go      nodes and logs that are lost
//	reap.go       workloads without an attempt
//	options.go    the parts of the leader
//	retention.go  the logs that are kept no longer
//
// DESIGN.md has the invariants and the reasons.
package scheduler
