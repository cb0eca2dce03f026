// Package registry talks to image registries: it parses references, finds the
// credential that a request may use, resolves references to digests, tells
// whether an image exists, copies images by digest, and tags them. It also has
// the guarded dialer, for every connection whose address came from a request.
//
// A Client is shared by all requests of a process. What a request may see is
// in its Rights and nowhere else: two requests share an upstream look-up or an
// authenticated session only where reference, platform and credential are the
// same.
//
// Every call has a time limit of its own, and every error is an *Error whose
// text names the image and never a credential, a token or a signed URL.
//
// What never belongs here: builds and their keys, the cluster, logs of
// attempts, and anything that runs a container.
package registry
