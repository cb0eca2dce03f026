package buildkit

import (
	"context"
	"fmt"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// open prepares the context of a workload. The caller closes the source.
func (r *Runtime) open(ctx context.Context, w *workload.Workload) (*source, error) {
	d := w.Source.GetDockerfile()
	if d == nil {
		return nil, userFailure(fmt.Errorf("the build has no Dockerfile source"))
	}
	l, err := layoutOf(d)
	if err != nil {
		return nil, userFailure(err)
	}
	switch from := d.Context.(type) {
	case *imagebuilderv1.DockerfileSource_Git:
		return openGit(from.Git, w.Secrets, l)
	case *imagebuilderv1.DockerfileSource_Upload:
		return r.openUpload(ctx, from.Upload.GetDigest(), l)
	case *imagebuilderv1.DockerfileSource_Download:
		return r.openDownload(ctx, from.Download, l)
	}
	return nil, userFailure(fmt.Errorf("the Dockerfile source has no context: give a git repository, an upload or a list of files"))
}
