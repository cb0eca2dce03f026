// Package kubernetes is the runtime that runs every attempt in a pod of its own. Pods outlive the
// node that created them: the next owner finds the pod by its name and continues from the last byte
// of output that is stored.
//
// A pod has a worker (package worker), which controls the build and reports on it, BuildKit for
// Dockerfile builds, and the registry proxy (package proxy), which alone holds registry
// credentials. BuildKit and the proxy are sidecars (init containers that restart, Kubernetes 1.29
// and later): the pod ends with its worker.
//
//	podspec.go    the pod of a workload: pure
//	classify.go   why a pod failed, and who is to blame: pure
//	run.go        one workload from creation, or adoption, to its end
//	stop.go       the end of a workload on request
//	watch.go      one informer for all pods of the install
//	follow.go     output and steps from the worker
//	secret.go     the two files of the pod's Secret
//
// The pod owns its Secret, and a ConfigMap of the install owns all pods: deleting that ConfigMap
// deletes every build.
//
// This package does not set tags, which is the work of the owner. It does not retry attempts and
// does not decide which node owns an attempt.
package kubernetes
