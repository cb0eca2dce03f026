// Package buildkit is the runtime for builds from a Dockerfile: it has them
// solved by BuildKit daemons, and pushes what they make by digest. It also
// starts and stops a daemon of its own for `dev` and for tests.
//
// One solve is one call of client.Build. Its callback reads the Dockerfile,
// decides about the frontend, and hands exactly these bytes to the frontend.
// While the daemon solves, it asks this process back over the session: for
// the context, for credentials by host (auth.go), for secrets by id, and,
// before it touches any image or repository, cached or not, whether this
// request may have it (policy.go). The latter is what keeps a shared daemon's
// cache from serving what a request has no right to. One thing it cannot keep: a
// daemon takes a commit that it has for that of any repository, so that who may
// read some repository, and knows the id of a commit of a private one, gets that.
//
// A solve lives as long as its connection: it ends with the context of Run,
// and with the process that called it.
//
// What never belongs here: tags (the owner sets them), retries, the storage of
// uploaded contexts, other kinds of builders.
package buildkit
