// Package cluster replicates a state machine with Raft (hashicorp/raft over
// raft-wal, fsync on). It proposes commands, stamps them with the leader's
// time, answers read indexes, runs the leader's work under a context that ends
// with its term, and guards the data directory: what is damaged is refused,
// never started empty.
//
// What never lives here: builds, or anything else of what is replicated. The
// state machine is an interface.
package cluster
