// Package proxy is the registry proxy of a build's pod. It listens on loopback
// and alone holds registry credentials. BuildKit and the worker reach every
// registry through it, by names that say what for:
//
//	pull/HOST/REPOSITORY     base images, read with what the request may use
//	push/HOST/REPOSITORY     where the build pushes, by digest
//	cache/HOST/REPOSITORY    the build cache
//	context/HOST/REPOSITORY  the uploaded context
//
// What is not granted is refused: other repositories and tags, deletion, lists
// of tags and repositories, mounts of foreign blobs. Clients present a secret
// that is made for one pod; commands of the build, which may share the pod's
// network, do not have it.
//
// decide (grant.go) is pure; upstream.go speaks to the registries.
package proxy
