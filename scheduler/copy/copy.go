// Package copy is the runtime for builds from an image ref: it copies the
// image from registry to registry. Nothing outside of the registries runs.
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
	// Copy pushes the image at src, named by digest, to the repository dst,
	// without a tag, and writes lines about its progress. Errors are
	// *builds.ImageError where they are about src.
	Copy(ctx context.Context, src string, rights *buildsv1.Rights, dst string, progress io.Writer) (builds.Image, error)
}

// Name is the runtime's name in the state.
const Name = "copy"

// Runtime copies images. It keeps no state: a copy that was cut off is
// resumed by copying again, since blobs that arrived are not sent twice.
type Runtime struct {
	copier Copier
}

var _ workload.Runtime = (*Runtime)(nil)

// New answers a runtime over a copier.
func New(c Copier) *Runtime { return &Runtime{copier: c} }

// Name is the runtime's name in the state.
func (r *Runtime) Name() string { return Name }

// Run copies the workload's image to the repository of its ref.
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

// failure blames the user for a base image that is not there or not theirs,
// and the infrastructure for all else.
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

// Stop has nothing to do: a copy ends with the context of its Run.
func (r *Runtime) Stop(context.Context, string) error { return nil }

// List has nothing to list: a copy does not outlive its Run.
func (r *Runtime) List(context.Context) ([]string, error) { return nil, nil }

// Survives reports that copies end with their node.
func (r *Runtime) Survives() bool { return false }
