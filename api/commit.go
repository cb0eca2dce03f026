package api

import (
	"context"

	"google.golang.org/protobuf/proto"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// atCommit answers the source of a wish with its git context at the commit that
// it names now, so that the key names the commit: a new commit on a branch is
// a new image. Gitpod resolves what it names itself; its sources stay as they
// are, in either API, unless the request asks for it.
func (s *Service) atCommit(ctx context.Context, w *wish) (*imagebuilderv1.Source, error) {
	d := w.source.GetDockerfile()
	g := d.GetGit()
	if g == nil || s.commit == nil || gitpodShaped(d) && !g.GetResolve() {
		return w.source, nil
	}
	id, err := s.commit(ctx, g, w.secrets)
	if err != nil {
		return nil, err
	}
	src := proto.CloneOf(w.source)
	g = src.GetDockerfile().GetGit()
	g.CloneTarget, g.TargetMode, g.Resolve = id, imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_COMMIT, false
	return src, nil
}
