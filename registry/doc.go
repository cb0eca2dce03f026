// Package registry is a client of image registries. It parses references, chooses the credential
// that a request may use, resolves references to digests, checks whether an image exists, copies
// images by digest, and tags them. It also has the guarded dialer for every connection whose
// address comes from a request.
//
// All requests of a process share one Client. Rights alone decide what a request may see: two
// requests share a look-up or an authenticated session only if reference, platform and credential
// are the same.
//
// Every call is bounded in time, by the client's Timeout or by its context. Every error is an
// *Error whose text names the image and contains no credential, token or signed URL.
//
// The package knows no builds, no cluster and no logs of attempts. It runs no containers.
package registry
