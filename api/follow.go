package api

import (
	"context"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// FollowLog sends the log of a build from its beginning, all attempts one after the other. It
// returns once the build has ended and all bytes are sent. Its errors are gRPC statuses, NOT_FOUND
// for an unknown build. send must not keep content.
func (s *Service) FollowLog(ctx context.Context, build string, send func(content []byte) error) error {
	r, err := s.find(ctx, build, "")
	if err != nil {
		return apiError(err)
	}
	return apiError(s.streamLogs(ctx, logRequest{build: r.Build.Id, follow: true}, func(_ uint32, _ int64, content []byte, _ bool) error {
		return send(content)
	}))
}

// FollowPhase calls f with a build as it is now and after each change, until the build has ended or
// f returns an error. It skips versions if f is slow, but never the latest one. Its errors are gRPC
// statuses, NOT_FOUND for an unknown build.
func (s *Service) FollowPhase(ctx context.Context, build string, f func(*imagebuilderv1.Build) error) error {
	if _, err := s.find(ctx, build, ""); err != nil {
		return apiError(err)
	}
	watch := s.store.Watch(build)
	if watch == nil {
		return apiError(builds.ErrNotFound)
	}
	defer watch.Close()
	for {
		b := watch.Latest().GetBuild()
		if b == nil {
			return apiError(builds.ErrResubscribe)
		}
		if err := f(b); err != nil || builds.Terminal(b.Phase) {
			return apiError(err)
		}
		for seen := b.Version; watch.Latest().GetBuild().GetVersion() == seen; {
			if _, err := watch.Next(ctx); err != nil {
				return apiError(err)
			}
		}
	}
}
