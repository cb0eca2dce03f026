package buildkit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/tonistiigi/fsutil"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// source is a build context that is ready for a solve. Either context or mounts is set.
type source struct {
	// key is the cache key: builds with the same key share a warm cache.
	key string
	// context describes a context that the daemon fetches.
	context *llb.State
	git     *gitContext
	secrets map[string][]byte
	// mounts are folders that this process streams to the daemon.
	mounts map[string]fsutil.FS
	// sharedKey lets the daemon request only changed files. Since it compares only names, sizes and
	// times, builds share a key only if their contexts are equal.
	sharedKey string
	// dockerfile reads the Dockerfile. The error is a *workload.Failure if the source is at fault.
	dockerfile func(context.Context, gateway.Client) (dockerfile, error)
	close      func() error
}

// gitContext is the git repository of a build context.
type gitContext struct {
	remote string
	header string // value of the Authorization header; "" for none
}

// maxDockerfile is the maximum size of a Dockerfile, in bytes.
const maxDockerfile = 1 << 20

// dockerfile is the content of a Dockerfile, as the frontend receives it.
type dockerfile struct {
	path string // path in the source
	data []byte
	// ignore is the content of the Dockerfile's own ignore file; nil if there is none.
	ignore []byte
}

// layout holds the places of the parts of a source, as clean relative paths.
type layout struct {
	// dir is the folder of the context; "." for the root.
	dir string
	// dockerfiles are the possible paths of the Dockerfile, in the order in which they are tried.
	dockerfiles []string
}

// layoutOf applies the rules of docs/gitpod-contract.md, sections 3 and 5. A path is relative to
// the source; if it begins with the checkout location, it is relative to the folder that holds the
// checkout. Without a context path, the context of a git source is the folder of its Dockerfile.
// Without a Dockerfile path, the Dockerfile is in the context.
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

// within cleans the path p in a source that is checked out at the location at. It returns an error
// if p is absolute or leaves the source.
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

func noDockerfile(l layout, err error) *workload.Failure {
	return userFailure(fmt.Errorf("there is no Dockerfile at %s in the build context: %w", strings.Join(l.dockerfiles, " or "), err))
}

// cacheTag returns a hash of the cache key, for places that others can see.
func (src *source) cacheTag() string {
	sum := sha256.Sum256([]byte(src.key))
	return hex.EncodeToString(sum[:16])
}
