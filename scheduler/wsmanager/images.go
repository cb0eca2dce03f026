package wsmanager

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// outcome returns the outcome of a workspace that has ended, from its last view and the registry.
func (s *session) outcome(ctx context.Context, v view) (workload.Outcome, error) {
	if f := v.failure(s.id); f != nil {
		return workload.Outcome{}, s.bounded(f)
	}
	// Without conditions, success is only a guess, and the image in the registry may be older than
	// the build.
	vanished := v.judge() == lost
	unproven := vanished || !v.judged
	var image, workspace builds.Image
	for _, ref := range []string{s.w.BaseRef, s.w.Ref} {
		if ref == s.w.BaseRef && s.w.Source.GetDockerfile() == nil {
			continue // the base image of a ref source is not built here
		}
		img, err := s.find(ctx, v, ref, vanished)
		if err != nil {
			return workload.Outcome{}, err
		}
		if image.Digest == "" {
			image = img
			image.Ref = ref
		}
		workspace = img
	}
	if vanished && !s.before.differs(workspace.Digest) {
		return workload.Outcome{}, failureLost(s.id)
	}
	if v.stoppedByRequest && !s.before.differs(workspace.Digest) {
		return workload.Outcome{}, failureNoImage(v, s.id, s.w.Ref)
	}
	if unproven && s.before.same(workspace.Digest) {
		return workload.Outcome{}, failureLost(s.id)
	}
	return workload.Outcome{Repository: repository(image.Ref), Digest: image.Digest, SizeBytes: image.SizeBytes}, nil
}

// find returns the image at a ref. It waits up to ImageTimeout for the image to appear, and retries
// while the registry is unavailable.
func (s *session) find(ctx context.Context, v view, ref string, vanished bool) (builds.Image, error) {
	b := s.r.backoff()
	deadline := time.Now().Add(s.r.opts.ImageTimeout)
	for {
		img, err := s.r.opts.Images(ctx, ref)
		kind := builds.ImageErrorKindOf(err)
		switch {
		case err == nil:
			return img, nil
		case ctx.Err() != nil:
			return builds.Image{}, ctx.Err()
		case kind == builds.ImageUnauthorized || kind == builds.ImageInvalid:
			return builds.Image{}, &workload.Failure{
				Blame:   builds.BlameInfrastructure,
				Message: fmt.Sprintf("cannot read the image that the build pushed: %v; check the pull secret of this install", err), Err: err,
			}
		case kind == builds.ImageNotFound && vanished:
			return builds.Image{}, failureLost(s.id)
		case kind == builds.ImageNotFound && !time.Now().Before(deadline):
			return builds.Image{}, failureNoImage(v, s.id, ref)
		}
		if !b.wait(ctx) {
			return builds.Image{}, ctx.Err()
		}
	}
}

// repository returns a ref without its tag or digest.
func repository(ref string) string {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i]
	}
	return ref
}
