// Package worker is what runs in the worker container of a build's pod: it
// fetches the context, has BuildKit on a local socket solve it (or copies an
// image), and tells the owner over HTTPS what happens. Output is kept on disk
// until the owner has stored it, so that owners may come and go. The result is
// the container's termination message as well, for an owner that comes late.
//
// It reaches registries through the pod's proxy only, and holds no credential
// of one.
package worker
