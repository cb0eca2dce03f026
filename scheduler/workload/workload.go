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

// Runtime executes attempts in one way. Its methods may be called concurrently. All methods are
// idempotent by the name of the workload.
type Runtime interface {
	// Name returns the name of the runtime in configuration, metrics and status.
	Name() string

	// Run starts the workload, or adopts a running one of the same name, and follows it until it
	// ends. It writes the raw output of the workload to sink, starting at byte sink.Offset() of the
	// output.
	//
	// Run returns the outcome of a workload that succeeded, and a *Failure for one that did not.
	// Any other error counts as a failure of the infrastructure. When ctx ends, Run returns the
	// error of ctx soon. A runtime whose workloads do not survive their node has stopped the
	// workload by then. A runtime whose workloads survive leaves the workload running.
	Run(ctx context.Context, w *Workload, sink Sink) (Outcome, error)

	// Stop stops the workload of that name and returns once no part of it runs. It returns nil if
	// there is no such workload.
	Stop(ctx context.Context, name string) error

	// List returns the names of all workloads that this runtime runs for this install. The list
	// includes workloads of other owners if the runtime can see them.
	List(ctx context.Context) ([]string, error)

	// Survives reports whether workloads outlive the node that started them.
	Survives() bool
}

// Sink receives the output and the progress of a running workload.
type Sink interface {
	// Write appends raw output. It blocks while the log store is slower than the workload. It fails
	// once the attempt has ended or has another owner.
	io.Writer
	// Offset returns the number of raw bytes that are stored.
	Offset() int64
	// Held returns the number of raw bytes, at most Offset, that every next owner would find. It is
	// less than Offset while output waits for the disk, for other copies of the log or for the rest
	// of a secret.
	Held() int64
	// Flush returns once the next owner would find all output that was written. Call it at the end
	// of the output: it also stores the bytes that are held back because they may be the beginning
	// of a secret.
	Flush(ctx context.Context) error
	// Running reports that the workload has started. Repeated calls are cheap.
	Running()
	// Steps replaces the structured steps of the attempt. Several reports may be committed as one.
	// The caller must not change the slice or its messages afterwards.
	Steps(steps []*imagebuilderv1.Step)
}

// Workload describes one attempt to its runtime. The runtime must not change it.
type Workload struct {
	BuildID string
	Attempt uint32
	Epoch   uint64
	// Started means that the state says that the workload exists, or that a former owner has seen
	// it run. If such a workload survives its node and is not there any more, it is lost, and the
	// runtime must not start it a second time.
	Started bool
	// Created commits that the workload exists. A runtime whose workloads survive their node calls
	// it after it has created the workload and, where possible, before the workload can run.
	// Created returns once the next owner would see Started. An error means that this node is not
	// the owner of the attempt any more. May be nil.
	Created func(context.Context) error
	Source  *imagebuilderv1.Source
	// Ref is the image that the build publishes. BaseRef is the second published image for a
	// Dockerfile source, and the image to copy, by digest, for a ref source. A runtime pushes by
	// digest only. The owner sets the tags.
	Ref, BaseRef string
	// Rights and Secrets are not encrypted. Never log them.
	Rights  *buildsv1.Rights
	Secrets *buildsv1.Secrets
	// Deadline is the time at which the build must end, by the clock of this node, which may be
	// wrong. LeadersDeadline is the same moment by the clock of the leaders. Pass the latter to
	// other machines.
	Deadline, LeadersDeadline time.Time
	// Requester is the requester of the call that created the build. May be empty.
	Requester string
	// SupervisorRef is the supervisor image that the request named, for Gitpod workspaces. May be
	// empty.
	SupervisorRef string
}

// Name returns the name of the workload. Every owner of the attempt computes the same name.
func (w *Workload) Name() string {
	return Name(w.BuildID, w.Attempt)
}

// Name returns the name of the workload of one attempt.
func Name(buildID string, attempt uint32) string {
	return fmt.Sprintf("ib-%s-%d", buildID, attempt)
}

// ParseName returns the build and the attempt of a name that Name has returned. ok is false for any
// other name.
func ParseName(name string) (buildID string, attempt uint32, ok bool) {
	rest, ok := strings.CutPrefix(name, "ib-")
	i := strings.LastIndexByte(rest, '-')
	if !ok || i < 1 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(rest[i+1:], 10, 32)
	if err != nil || n == 0 || Name(rest[:i], uint32(n)) != name {
		return "", 0, false
	}
	return rest[:i], uint32(n), true
}

// Outcome is the result of a successful workload: an image in the registry.
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
	// Message tells a user what happened, to what, and what to do. It contains no secrets.
	Message string
	// Remains means that the workload does not run any more, or never ran, but that something of
	// it still exists from which another owner would read the same end. The owner calls Stop once
	// the end is committed, and not before: if the owner is killed in between, the next owner can
	// still read the end.
	Remains bool
	Err     error
}

// Error returns the message.
func (f *Failure) Error() string { return f.Message }

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }
