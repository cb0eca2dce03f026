package buildkit

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/tonistiigi/fsutil"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// source is a build context that is ready to be solved. Either context or
// mounts is set.
type source struct {
	// key is the same for builds that profit from the same warm cache.
	key string
	// context is fetched by the daemon.
	context *llb.State
	git     *gitContext
	secrets map[string][]byte
	// mounts are streamed by this process.
	mounts map[string]fsutil.FS
	// sharedKey lets the daemon send for what changed only. Builds share one
	// only if their contexts are equal: it compares names, sizes and times.
	sharedKey string
	// dockerfile reads the Dockerfile. Errors are *scheduler.Failure where
	// they are about the source.
	dockerfile func(context.Context, gateway.Client) (dockerfile, error)
	close      func() error
}

// open prepares the context of a workload.
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

// layout says where things lie in a source, by clean relative paths.
type layout struct {
	// dir is the context, "." for the root.
	dir string
	// dockerfiles are the places of the Dockerfile, to be tried in order.
	dockerfiles []string
}

// layoutOf applies the rules of the wire contract (sections 3 and 5): paths are
// relative to the source, or to the folder that holds the checkout if they
// begin with its location; a git context without a path is the folder of its
// Dockerfile. Without its own path, the Dockerfile is in the context.
func layoutOf(d *imagebuilderv1.DockerfileSource) (layout, error) {
	at := d.GetGit().GetCheckoutLocation()
	file, err := within(at, d.GetDockerfilePath())
	if err != nil {
		return layout{}, fmt.Errorf("the path of the Dockerfile %w", err)
	}
	dir, err := within(at, d.GetContextPath())
	if err != nil {
		return layout{}, fmt.Errorf("the path of the context %w", err)
	}
	switch {
	case d.GetDockerfilePath() != "" && d.GetContextPath() == "" && d.GetGit() != nil:
		dir = path.Dir(file)
	case d.GetDockerfilePath() == "" && dir != ".":
		return layout{dir: dir, dockerfiles: []string{path.Join(dir, "Dockerfile"), "Dockerfile"}}, nil
	case d.GetDockerfilePath() == "":
		file = "Dockerfile"
	}
	return layout{dir: dir, dockerfiles: []string{file}}, nil
}

// within cleans a path in a source that is checked out at a location.
func within(at, p string) (string, error) {
	if strings.ContainsAny(p, "\x00\n\r") || path.IsAbs(p) {
		return "", fmt.Errorf("%q must be a relative path", p)
	}
	p = path.Clean(p)
	if p == ".." || strings.HasPrefix(p, "../") {
		return "", fmt.Errorf("%q leaves the build context", p)
	}
	if at = path.Clean(at); at != "." {
		if p == at {
			return ".", nil
		}
		p = strings.TrimPrefix(p, at+"/")
	}
	return p, nil
}
