// Package builds is the replicated state machine of the image builder. Its state holds the builds
// with their phases and attempts, the request ids, the cached references, the nodes and the
// settings. Every node applies the same commands in the same order and so holds the same state.
//
// The package performs no effects. It has no Raft, no RPC, no registry client and no runtime: it
// needs only the interface Raft to propose commands. The two APIs are in package api, the decisions
// of the leader in package scheduler, and the bytes of logs in package builds/logs.
//
// The files, from the base up:
//
//   - phase.go, errors.go, image.go, feature_level.go, settings.go: basic types and rules
//   - log_copies.go, cache.go: rules of log copies and of cached references
//   - entry.go, pack.go, tree.go, table.go, keys.go: the forms in which tables keep builds, and
//     their orders; schedule.go: the tables that are derived from the state for decisions
//   - state.go: the state and its tables; build_table.go, deadlines.go, reindex.go, published.go,
//     copy_sets.go, tables.go: how a change of a record changes them; queues.go, list.go: reads
//   - elapse.go: what changes when the time of the state rises
//   - change.go, edit.go: one command while it is applied, its Result and its Event
//   - retry.go: which builds get another attempt, and when; busy.go and refusal.go: the
//     refusal of new builds by full queues
//   - apply_*.go: the commands, by subject; apply.go: the dispatch to them
//   - snapshot.go: the state as bytes; state_hash.go: its hash; diverge_*.go: wrong changes for
//     tests, with the build tag faults
//   - store.go: the state behind a lock; events.go, build_watch.go, signal.go, hooks.go: its
//     watchers
//   - commands.go, propose.go, prepare.go: the encoding of commands, their proposal on a node, and
//     their completion by the leader
//
// DESIGN.md has the invariants and the reasons.
package builds
