// Package workload is the contract between the owner of an attempt and the runtimes that execute
// attempts. A workload is whatever executes one attempt outside of the replicated state: a solve of
// BuildKit, a pod, a workspace, a copy between registries. The owner passes a Workload and a Sink
// to Runtime.Run, and receives an Outcome or a Failure.
//
// The package contains no runtime and no owner. It imports only the messages of the API.
package workload
