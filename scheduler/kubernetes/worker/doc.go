// Package worker is the program in the worker container of a build's pod. It fetches the context,
// makes BuildKit solve it over a local socket (or copies an image), and reports to the owner over
// HTTPS. It keeps output on disk until the owner has stored it, so that the next owner can
// continue. The result is also in the termination message of the container, where an owner finds it
// after the worker has ended.
//
// The worker reaches registries only through the proxy of the pod, and holds no registry
// credentials.
package worker
