// Package builds is the domain of the image builder: builds, their keys,
// phases and attempts, the commands that change them and their pure
// application to the replicated state, and the two APIs over it.
//
// What never lives here: Raft, Kubernetes, BuildKit or a registry client. The
// package meets them at the small interfaces that it defines (Raft, Registry,
// LogReader).
package builds
