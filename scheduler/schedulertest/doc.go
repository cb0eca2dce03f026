// Package schedulertest is a test helper of the scheduler packages: a replicated state without a
// cluster (World, Raft), and a runtime that succeeds at once (Runtime).
package schedulertest
