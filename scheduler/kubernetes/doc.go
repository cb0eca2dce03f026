// Package kubernetes is the runtime that runs every attempt in a pod of its
// own. Pods outlive the node that made them: the next owner finds the pod by
// its name and goes on from the byte of output that it has.
//
// A pod has a worker (package worker), which does the build and tells of it,
// BuildKit for Dockerfile builds, and the registry proxy (package proxy),
// which alone holds registry credentials. BuildKit and proxy are sidecars
// (init containers that restart, Kubernetes 1.29 and later): the pod ends with
// its worker.
//
//	podspec.go    the pod of a workload: pure
//	classify.go   why a pod failed, and whose fault it is: pure
//	run.go        one workload from creation, or adoption, to its end
//	watch.go      one informer for all pods of the install
//	follow.go     output and steps from the worker
//	secret.go     the two files of the pod's Secret
//
// The pod's Secret is owned by the pod, the pod by a ConfigMap of the install:
// what deletes that deletes every build.
//
// What never belongs here: tags (the owner sets them), retries, the decision
// which node owns what.
package kubernetes
