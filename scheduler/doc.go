// Package scheduler is the work of the leader on builds. From the replicated state it decides which
// build starts next and on which node, which attempts end because their node is lost, which
// attempts the leader ends in the place of their owners, and which logs and ended builds are
// removed. The decisions are pure functions of the state, the health of the nodes and the
// configuration. The loop of the leader commits them as commands, which Apply checks again.
//
// The package runs no attempt: package owner runs attempts, on every node. It executes no build and
// knows no registry, BuildKit or Kubernetes: the runtimes in the directories below execute builds,
// behind the contract of package workload. The leader uses runtimes only through the Reaper, which
// stops workloads without a live attempt. Package refcache has the leader's work on cached
// references.
//
// Files, from the top down:
//
//	leader.go     the loop of the leader: decides and commits
//	waiting.go    the reason why a queued build waits
//	trace.go      spans of decisions and of builds
//	decide.go     the decision: which attempts start where
//	decision.go   the parts of a decision, and their limits
//	turns.go      the order of the queued builds: requesters take turns
//	place.go      the node of an attempt
//	revoke.go     attempts that their owners do not end
//	nodes.go      nodes and logs that are lost
//	reap.go       workloads without a live attempt
//	options.go    the parts of the leader
//	retention.go  the logs that retention removes
//
// DESIGN.md has the invariants and the reasons.
package scheduler
