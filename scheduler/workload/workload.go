package workload

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// A Runtime executes attempts of one kind outside of the replicated state.
// Methods may be called concurrently; all are idempotent by workload name.
type Runtime interface {
	// Name is the runtime's name in configuration, metrics and status.
	Name() string

	// Run starts the workload, or adopts the one of the same name that runs
	// already, and follows it until it ended. It writes the workload's raw
	// output to sink, beginning at byte sink.Offset() of it.
	//
	// Run returns the outcome of a workload that succeeded, and a *Failure for
	// one that did not; any other error counts as a failure of the
	// infrastructure. When ctx ends, Run returns its error soon: a runtime
	// whose workloads do not survive their node has stopped the workload by
	// then, one whose workloads survive leaves it running.
	Run(ctx context.Context, w *Workload, sink Sink) (Outcome, error)

	// Stop ends the workload of that name and returns once nothing of it runs.
	// It is no error if there is none.
	Stop(ctx context.Context, name string) error

	// List answers the names of all workloads that this runtime runs for this
	// install, those of other owners included where it can see them.
	List(ctx context.Context) ([]string, error)

	// Survives reports whether workloads outlive the node that started them.
	Survives() bool
}

// Sink takes what a workload says while it runs.
type Sink interface {
	// Write appends raw output. It blocks while the log store cannot follow,
	// and fails when the attempt is over for its owner.
	io.Writer
	// Offset is the number of raw bytes stored so far.
	Offset() int64
	// Flush returns once a next owner would find all that was written. It is for
	// the end of the output: what is held back since it may be the beginning of a
	// secret is written.
	Flush(ctx context.Context) error
	// Running tells that the workload has started. Repeated calls are cheap.
	Running()
	// Steps replaces the structured steps of the attempt. Reports are
	// coalesced; the slice and its messages must not change afterwards.
	Steps(steps []*imagebuilderv1.Step)
}

// Workload is one attempt as its runtime sees it. It must not be changed.
type Workload struct {
	BuildID string
	Attempt uint32
	Epoch   uint64
	// Started says that the workload was committed to exist, or that a former
	// owner has seen it run: one that survives its node and is not there any more
	// is lost, and must not be started a second time.
	Started bool
	// Created commits that the workload exists. A runtime whose workloads survive
	// their node calls it once it has made one, and where it can before that may
	// run. It returns when the next owner would find Started set; an error says
	// that the attempt is over for this owner. May be nil.
	Created func(context.Context) error
	Source  *imagebuilderv1.Source
	// Ref is the image that the build publishes; BaseRef, for a Dockerfile
	// source, the second one, for a ref source the image to copy, by digest.
	// A runtime pushes by digest only: the owner tags.
	Ref, BaseRef string
	// Rights and Secrets are in clear: never log them.
	Rights  *buildsv1.Rights
	Secrets *buildsv1.Secrets
	// Deadline is when the build has to end, by the clock of this node, which may
	// be wrong; LeadersDeadline is the same by the leaders' clock, for other
	// machines to be told.
	Deadline, LeadersDeadline time.Time
	// Requester is who asked for the build first; may be empty.
	Requester string
	// SupervisorRef is the supervisor image that the request named, for Gitpod
	// workspaces; may be empty.
	SupervisorRef string
}

// Name is the deterministic name of the workload.
func (w *Workload) Name() string {
	return WorkloadName(w.BuildID, w.Attempt)
}

// WorkloadName is the name of the workload of one attempt.
func WorkloadName(buildID string, attempt uint32) string {
	return fmt.Sprintf("ib-%s-%d", buildID, attempt)
}

// ParseWorkloadName takes a name apart that WorkloadName has made.
func ParseWorkloadName(name string) (buildID string, attempt uint32, ok bool) {
	rest, ok := strings.CutPrefix(name, "ib-")
	i := strings.LastIndexByte(rest, '-')
	if !ok || i < 1 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(rest[i+1:], 10, 32)
	if err != nil || n == 0 || WorkloadName(rest[:i], uint32(n)) != name {
		return "", 0, false
	}
	return rest[:i], uint32(n), true
}

// Outcome is what a successful workload left in the registry.
type Outcome struct {
	// Repository and Digest name the image that was pushed by digest.
	Repository string
	Digest     string
	// SizeBytes is the sum of the compressed layers and the config.
	SizeBytes int64
}

// Failure is the end of a workload that did not succeed.
type Failure struct {
	Blame imagebuilderv1.Blame
	// Message tells a person what happened, to what, and what to do. It holds
	// no secrets.
	Message string
	// Remains says that what is left of a workload that survives its node runs
	// no more, or never ran, and that another owner would find the same end
	// there. It is stopped once the end is committed, not before: an owner that
	// is killed in between leaves something to judge.
	Remains bool
	Err     error
}

// Error returns the message.
func (f *Failure) Error() string { return f.Message }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }
