// Package api serves the two APIs of the image builder over one service: Native is
// imagebuilder.v1.ImageBuilder, and Gitpod is builder.ImageBuilder, which Gitpod's server calls.
//
// It validates requests, computes the references under which images are published, checks in the
// registry whether the image exists, proposes commands to the replicated log, and streams logs and
// changes to clients. It does not run builds and makes no decision of the leader (package
// scheduler), and it does not change the state itself (package builds). Listeners, TLS and the
// identity of callers belong to package node.
//
// The files, from the base up:
//
//   - errors.go: errors and their gRPC codes; operator.go: calls of operators
//   - image_ref.go: the references of images; repositories.go: where an install publishes them
//   - validate.go: limits and checks that both APIs share
//   - ports.go, service.go: the parts of the service, and the service
//   - reads.go: freshness of reads; request.go: a request, its plan and its result
//   - commit.go, plan.go, contexts.go, one_time.go, submit.go: from a request to a build
//   - stream_logs.go, follow.go: logs and phases as streams
//   - native*.go, upload.go, build_filter.go: the native API
//   - gitpod*.go, active_list.go: Gitpod's API
//   - mutants.go: defects that tests switch on
package api
