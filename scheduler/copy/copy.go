// Package copy is the runtime for builds from an image ref: it copies the image from one registry
// to another. It runs nothing outside of this process.
package copy

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Copier copies an image by digest.
type Copier interface {
	// Copy pushes the image at src, which names it by digest, to the repository dst without a tag.
	// It writes lines about its progress to progress. It returns a *builds.ImageError if src is at
	// fault.
	Copy(ctx context.Context, src string, rights *buildsv1.Rights, dst string, progress io.Writer) (builds.Image, error)
}

// Name is the name of the runtime in the replicated state.
const Name = "copy"

// Runtime copies images. It keeps no state: an interrupted copy is repeated, and skips the blobs
// that the target registry already has.
type Runtime struct {
	copier Copier
}

var _ workload.Runtime = (*Runtime)(nil)

// New returns a runtime that copies with c.
func New(c Copier) *Runtime { return &Runtime{copier: c} }

// Name returns the name of the runtime in the replicated state.
func (r *Runtime) Name() string { return Name }

// Run copies the image of the workload to the repository of its ref. It pushes by digest.
func (r *Runtime) Run(ctx context.Context, w *workload.Workload, sink workload.Sink) (workload.Outcome, error) {
	src := w.Source.GetRef().GetRef()
	dst := w.Ref[:strings.LastIndexByte(w.Ref, ':')]
	sink.Running()
	img, err := r.copier.Copy(ctx, src, w.Rights, dst, sink)
	if err != nil {
		return workload.Outcome{}, failure(ctx, src, err)
	}
	return workload.Outcome{Repository: dst, Digest: img.Digest, SizeBytes: img.SizeBytes}, nil
}

// failure returns the context's error if ctx has ended, else a *workload.Failure. The failure
// blames the user if the base image does not exist, is invalid or may not be read, and the
// infrastructure otherwise.
func failure(ctx context.Context, src string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	switch builds.ImageErrorKindOf(err) {
	case builds.ImageNotFound:
		return &workload.Failure{Blame: builds.BlameUser, Message: fmt.Sprintf("base image does not exist: %v", err), Err: err}
	case builds.ImageUnauthorized, builds.ImageInvalid:
		return &workload.Failure{Blame: builds.BlameUser, Message: fmt.Sprintf("cannot copy the base image: %v", err), Err: err}
	}
	return &workload.Failure{Blame: builds.BlameInfrastructure, Message: fmt.Sprintf("copy %s: %v", src, err), Err: err}
}

// Stop does nothing: a copy ends with the context of its Run.
func (r *Runtime) Stop(context.Context, string) error { return nil }

// List returns nothing: a copy does not outlive its Run.
func (r *Runtime) List(context.Context) ([]string, error) { return nil, nil }

// Survives returns false: copies end with their node.
func (r *Runtime) Survives() bool { return false }
