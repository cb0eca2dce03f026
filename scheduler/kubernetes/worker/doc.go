// Package worker is the program in the worker container of a build's pod. It fetches the context,
// makes BuildKit solve it over a local socket (or copies an image), and reports to the owner over
// HTTPS. It keeps output on disk until the owner has stored it, so that the owner may change. The
// result is also in the termination message of the container, for an owner that comes late.
//
// The worker reaches registries only through the proxy of the pod, and holds no registry
// credentials.
package worker
