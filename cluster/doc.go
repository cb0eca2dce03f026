// Package cluster replicates a state machine with Raft (hashicorp/raft on raft-wal, with fsync). It
// proposes commands, stamps them with the leader's time, serves linearizable reads, runs the
// leader's work under a context that ends with the leader's term, and guards the data directory: a
// node refuses to start on damaged data and never replaces it by an empty state.
//
// The package does not know the replicated data, such as builds. StateMachine is an interface that
// the caller implements.
package cluster
