// Package buildkit is the runtime for builds from a Dockerfile. BuildKit daemons solve them and
// push the images by digest. The package can also start and stop a daemon of its own, for `dev` and
// for tests.
//
// One solve is one call of client.Build. Its callback reads the Dockerfile, decides which frontend
// may be used, and passes the Dockerfile to it exactly as it was read. During the solve, the daemon
// calls this process back over the session: for the context, for credentials by host (auth.go) and
// for secrets by id. Before it uses any image or repository, cached or not, it also asks whether
// the request may use it (policy.go). Otherwise a request could get content from the cache of a
// shared daemon to which it has no right.
//
// One gap remains: the daemon identifies a git commit by its id alone. A user who can read any
// repository and knows the id of a commit in a private repository gets that commit if the daemon
// has it cached.
//
// A solve is bound to its connection: it ends with the context of Run, or with the process that
// called Run.
//
// This package does not set tags, which is the work of the owner. It does not retry and does not
// store uploaded contexts.
package buildkit
