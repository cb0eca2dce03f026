package request

import (
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// DefaultRequester returns the name of the requester if no flag names one.
func DefaultRequester() string { return cmp.Or(os.Getenv("USER"), "cli") }

// RefSource returns a source that is an existing image.
func RefSource(ref string) *imagebuilderv1.Source {
	return &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: ref}}}
}

// Flags are the flags of `build` that describe the request.
type Flags struct {
	Ref       string // image whose workspace image is built; if empty, the source is a context
	Requester string
	Force     bool     // build although the image exists
	BuildArgs []string // NAME=VALUE, or NAME for the value in the environment

	requestID                        string
	labels                           []string
	timeout                          time.Duration
	file, target, gitTarget, network string
	tags, secrets, platforms         []string
	imageLabels                      []string
	noCache                          bool
	provenance, sbom                 string
}

// defaultScanner is the default of BuildKit for attestations of the contents.
const defaultScanner = "docker/buildkit-syft-scanner:stable-1"

// Register adds the flags to a command.
func (f *Flags) Register(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.Ref, "ref", "", "build the workspace image of this image")
	s.StringVar(&f.Requester, "requester", DefaultRequester(), "name of the requester")
	s.StringVar(&f.requestID, "request-id", "", "id of the request; a repeated request with the same id returns the same build; random if empty")
	s.StringSliceVar(&f.labels, "build-label", nil, "labels of the build, key=value")
	s.DurationVar(&f.timeout, "timeout", 0, "time limit of the whole build; the server's default if 0")
	s.BoolVar(&f.Force, "force", false, "build although the image exists")
	s.StringVarP(&f.file, "file", "f", "", "Dockerfile; '-' for standard input")
	s.StringVar(&f.target, "target", "", "stage to build")
	s.StringVar(&f.gitTarget, "git-target", "", "branch, tag or commit of a git context")
	s.StringVar(&f.network, "network", "", "network of RUN: default or none")
	s.StringSliceVarP(&f.tags, "tag", "t", nil, "additional tags in the base repository")
	s.StringArrayVar(&f.BuildArgs, "build-arg", nil, "build arguments: NAME=VALUE, or NAME for the value in the environment")
	s.StringArrayVar(&f.secrets, "secret", nil, "secrets for RUN --mount=type=secret: id=ID,src=FILE or id=ID,env=NAME")
	s.StringSliceVar(&f.platforms, "platform", nil, "platforms to build for")
	s.StringArrayVar(&f.imageLabels, "label", nil, "labels of the image, NAME=VALUE")
	s.StringVar(&f.provenance, "provenance", "", "attest how the image was built: min or max")
	s.StringVar(&f.sbom, "sbom", "", "attest the contents of the image, with this scanner image (--sbom alone: "+defaultScanner+")")
	s.Lookup("sbom").NoOptDefVal = defaultScanner
	s.BoolVar(&f.noCache, "no-cache", false, "run every step again")
}

// Request returns the request without registry credentials. If the context is a directory or an
// archive, it uploads the context first; args has the context unless Ref is set.
func (f *Flags) Request(ctx context.Context, api imagebuilderv1.ImageBuilderClient, args []string, stdin io.Reader) (*imagebuilderv1.BuildImageRequest, error) {
	req := &imagebuilderv1.BuildImageRequest{
		RequestId: cmp.Or(f.requestID, uuid.NewString()), Requester: f.Requester, Force: f.Force || f.noCache,
	}
	var err error
	if req.Labels, err = ParseLabels(f.labels); err != nil {
		return nil, err
	}
	if f.timeout > 0 {
		req.Timeout = durationpb.New(f.timeout)
	}
	if f.Ref != "" {
		req.Source = RefSource(f.Ref)
		return req, nil
	}
	d, err := f.dockerfile()
	if err != nil {
		return nil, err
	}
	if req.Secrets, err = parseSecrets(f.secrets); err != nil {
		return nil, err
	}
	d.SecretIds = slices.Sorted(maps.Keys(req.Secrets))
	if strings.Contains(args[0], "://") {
		err = f.setGit(d, args[0])
	} else {
		err = f.setUpload(ctx, api, d, args[0], stdin)
	}
	if err != nil {
		return nil, err
	}
	req.Source = &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: d}}
	return req, nil
}

// dockerfile returns the source without context and secrets.
func (f *Flags) dockerfile() (*imagebuilderv1.DockerfileSource, error) {
	d := &imagebuilderv1.DockerfileSource{
		DockerfilePath: f.file, Target: f.target, Platforms: f.platforms, NoCache: f.noCache, NetworkMode: f.network, ExtraTags: f.tags,
		Provenance: f.provenance, SbomGenerator: f.sbom, BuildArgs: map[string]string{},
	}
	var err error
	if d.ImageLabels, err = ParseLabels(f.imageLabels); err != nil {
		return nil, err
	}
	for _, a := range f.BuildArgs {
		k, v, given := strings.Cut(a, "=")
		if !given {
			v = os.Getenv(k)
		}
		d.BuildArgs[k] = v
	}
	return d, nil
}

// setGit sets the context of d to a git repository.
func (f *Flags) setGit(d *imagebuilderv1.DockerfileSource, url string) error {
	if f.file == "-" {
		return cli.ExitWith(cli.ExitUsage, errors.New("-f -: the Dockerfile of a git repository must be in the repository; name one in it"))
	}
	uri, target, dir, err := splitGitURL(url, f.gitTarget)
	if err != nil {
		return cli.ExitWith(cli.ExitUsage, err)
	}
	d.ContextPath = cmp.Or(dir, ".") // empty means the folder of the Dockerfile
	if dir != "" && f.file != "" {
		d.DockerfilePath = path.Join(dir, f.file)
	}
	g := &imagebuilderv1.GitContext{RemoteUri: uri, CloneTarget: target, Resolve: true}
	if target != "" {
		g.TargetMode = imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_BRANCH
	}
	d.Context = &imagebuilderv1.DockerfileSource_Git{Git: g}
	return nil
}

// setUpload uploads a directory, or an archive from standard input, and sets the context of d to it.
func (f *Flags) setUpload(ctx context.Context, api imagebuilderv1.ImageBuilderClient, d *imagebuilderv1.DockerfileSource, dir string, stdin io.Reader) error {
	var digest string
	var err error
	if dir == "-" {
		digest, err = uploadArchive(ctx, api, f.file, stdin)
	} else {
		var c *buildContext
		if c, err = openContext(dir, f.file, stdin); err == nil {
			d.DockerfilePath = c.dockerfile
			digest, err = upload(ctx, api, c.write)
		}
	}
	d.Context = &imagebuilderv1.DockerfileSource_Upload{Upload: &imagebuilderv1.UploadedContext{Digest: digest}}
	return err
}
