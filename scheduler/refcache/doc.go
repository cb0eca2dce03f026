// Package refcache keeps the cached references resolved to digests, and pulls their images into
// BuildKit daemons before a build needs them. The Leader assigns references that are due to nodes.
// On every node, the Refresher resolves the references that are assigned to it and commits the
// digests, and the Prewarmer pulls the images that changed.
//
// The package does not query registries and does not pull images: it calls the functions and the
// Daemon that its caller passes. The references, their digests and the assignments are part of the
// replicated state (package builds).
//
// Files, from the top down:
//
//	leader.go     assigns references to nodes, for one term
//	prewarmer.go  pulls images into the daemons of this node
//	refresher.go  resolves the references of this node
//	decide.go     the decisions, as pure functions
package refcache
