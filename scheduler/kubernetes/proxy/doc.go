// Package proxy is the registry proxy of a build's pod. It listens on loopback, and it alone holds
// registry credentials. BuildKit and the worker reach every registry through it, by names whose
// first part is the purpose:
//
//	pull/HOST/REPOSITORY     base images, read with the rights of the request
//	push/HOST/REPOSITORY     the target of the build, pushed by digest
//	cache/HOST/REPOSITORY    the build cache
//	context/HOST/REPOSITORY  the uploaded context
//
// Everything that is not granted is refused: other repositories and tags, deletion, lists of tags
// and repositories, mounts of blobs from other repositories. Clients present a secret that is
// created for one pod. Commands of the build may share the network of the pod, but do not have the
// secret.
//
// decide (grant.go) is pure; upstream.go connects to the registries.
package proxy
