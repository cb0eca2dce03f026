package api

import (
	"context"

	"google.golang.org/protobuf/proto"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// resolveCommit returns the source of a request with its git context at the commit to which the
// context resolves now. So the key of the image names the commit, and a new commit on a branch
// makes a new image. Gitpod resolves branches itself: a source that Gitpod's API can express is not
// resolved, in either API, unless the request demands it.
func (s *Service) resolveCommit(ctx context.Context, r *buildRequest) (*imagebuilderv1.Source, error) {
	d := r.source.GetDockerfile()
	g := d.GetGit()
	if g == nil || s.commit == nil || gitpodShaped(d) && !g.GetResolve() {
		return r.source, nil
	}
	id, err := s.commit(ctx, g, r.secrets)
	if err != nil {
		return nil, err
	}
	src := proto.CloneOf(r.source)
	g = src.GetDockerfile().GetGit()
	g.CloneTarget, g.TargetMode, g.Resolve = id, imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_COMMIT, false
	return src, nil
}
