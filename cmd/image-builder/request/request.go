package request

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"
)

func DefaultRequester() string { return cmp.Or(os.Getenv("USER"), "cli") }

func RefSource(ref string) *imagebuilderv1.Source {
	return &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: ref}}}
}

// buildFlags are the flags of `build`.
type BuildFlags struct {
	Ref, Requester, requestID        string
	labels                           []string
	timeout                          time.Duration
	Detach, Force                    bool
	file, target, gitTarget, network string
	tags, Args, secrets, platforms   []string
	imageLabels                      []string
	noCache                          bool
	Progress                         string
	provenance, sbom                 string
}

// defaultScanner is BuildKit's own choice.
const defaultScanner = "docker/buildkit-syft-scanner:stable-1"

// register adds the flags to a command.
func (b *BuildFlags) Register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&b.Ref, "ref", "", "build the workspace image of this image")
	f.StringVar(&b.Requester, "requester", DefaultRequester(), "who asks")
	f.StringVar(&b.requestID, "request-id", "", "makes asking again answer the same build; random if empty")
	f.StringSliceVar(&b.labels, "build-label", nil, "labels of the build, key=value")
	f.DurationVar(&b.timeout, "timeout", 0, "limit of the whole build; the server's default if 0")
	f.BoolVar(&b.Detach, "detach", false, "print the build's id and do not follow it")
	f.BoolVar(&b.Force, "force", false, "build although the image exists")
	f.StringVarP(&b.file, "file", "f", "", "the Dockerfile; '-' for standard input")
	f.StringVar(&b.target, "target", "", "the stage to build")
	f.StringVar(&b.gitTarget, "git-target", "", "branch, tag or commit of a git context")
	f.StringVar(&b.network, "network", "", "network of RUN: default or none")
	f.StringSliceVarP(&b.tags, "tag", "t", nil, "further tags in the base repository")
	f.StringArrayVar(&b.Args, "build-arg", nil, "build arguments, NAME=VALUE, or NAME for the environment's")
	f.StringArrayVar(&b.secrets, "secret", nil, "secrets for RUN --mount=type=secret: id=ID,src=FILE or id=ID,env=NAME")
	f.StringSliceVar(&b.platforms, "platform", nil, "platforms to build for")
	f.StringArrayVar(&b.imageLabels, "label", nil, "labels of the image, NAME=VALUE")
	f.StringVar(&b.provenance, "provenance", "", "attest how the image was built: min or max")
	f.StringVar(&b.sbom, "sbom", "", "attest what is in the image, by this scanner image (--sbom alone: "+defaultScanner+")")
	f.Lookup("sbom").NoOptDefVal = defaultScanner
	f.BoolVar(&b.noCache, "no-cache", false, "build every step anew")
	f.StringVar(&b.Progress, "progress", "auto", "auto: live steps on a terminal; plain: the log; json: the build as a line at each change")
}

// request makes the request; it uploads the context if there is one to upload.
func (b *BuildFlags) Request(ctx context.Context, client imagebuilderv1.ImageBuilderClient, args []string, stdin io.Reader) (*imagebuilderv1.BuildImageRequest, error) {
	req := &imagebuilderv1.BuildImageRequest{
		RequestId: cmp.Or(b.requestID, uuid.NewString()), Requester: b.Requester, Force: b.Force || b.noCache,
	}
	var err error
	if req.Labels, err = ParseLabels(b.labels); err != nil {
		return nil, err
	}
	if b.timeout > 0 {
		req.Timeout = durationpb.New(b.timeout)
	}
	if b.Ref != "" {
		req.Source = RefSource(b.Ref)
		return req, nil
	}
	d := &imagebuilderv1.DockerfileSource{
		DockerfilePath: b.file, Target: b.target, Platforms: b.platforms, NoCache: b.noCache, NetworkMode: b.network, ExtraTags: b.tags,
		Provenance: b.provenance, SbomGenerator: b.sbom,
	}
	if d.ImageLabels, err = ParseLabels(b.imageLabels); err != nil {
		return nil, err
	}
	d.BuildArgs = map[string]string{}
	for _, a := range b.Args {
		k, v, given := strings.Cut(a, "=")
		if !given {
			v = os.Getenv(k)
		}
		d.BuildArgs[k] = v
	}
	if req.Secrets, err = parseSecrets(b.secrets); err != nil {
		return nil, err
	}
	d.SecretIds = slices.Sorted(maps.Keys(req.Secrets))
	req.Source = &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: d}}
	if strings.Contains(args[0], "://") {
		if b.file == "-" {
			return nil, cli.ExitWith(cli.ExitUsage, errors.New("-f -: a git repository is built with a Dockerfile of its own; name one in it"))
		}
		uri, target, dir, err := splitGitURL(args[0], b.gitTarget)
		if err != nil {
			return nil, cli.ExitWith(cli.ExitUsage, err)
		}
		d.ContextPath = cmp.Or(dir, ".") // empty means the Dockerfile's folder
		if dir != "" && b.file != "" {
			d.DockerfilePath = path.Join(dir, b.file)
		}
		g := &imagebuilderv1.GitContext{RemoteUri: uri, CloneTarget: target, Resolve: true}
		if target != "" {
			g.TargetMode = imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_BRANCH
		}
		d.Context = &imagebuilderv1.DockerfileSource_Git{Git: g}
		return req, nil
	}
	digest := ""
	if args[0] == "-" {
		digest, err = uploadArchive(ctx, client, b.file, stdin)
	} else {
		var c *buildContext
		if c, err = openContext(args[0], b.file, stdin); err == nil {
			d.DockerfilePath = c.dockerfile
			digest, err = upload(ctx, client, c.write)
		}
	}
	if err != nil {
		return nil, err
	}
	d.Context = &imagebuilderv1.DockerfileSource_Upload{Upload: &imagebuilderv1.UploadedContext{Digest: digest}}
	return req, nil
}

// splitGitURL takes the fragment off the URL of a repository: `#REF`,
// `#REF:DIR` or `#:DIR`, as `docker build` writes them. target is what
// --git-target says.
func splitGitURL(url, target string) (uri, ref, dir string, err error) {
	uri, fragment, _ := strings.Cut(url, "#")
	ref, dir, _ = strings.Cut(fragment, ":")
	if ref != "" && target != "" && ref != target {
		return "", "", "", fmt.Errorf("the URL names %q and --git-target %q: give one of them", ref, target)
	}
	if dir = strings.Trim(dir, "/"); dir != "" && !filepath.IsLocal(dir) {
		return "", "", "", fmt.Errorf("the folder %q of the URL leaves the repository", dir)
	}
	return uri, cmp.Or(ref, target), dir, nil
}

// parseSecrets reads secrets from where the flags say.
func parseSecrets(list []string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, s := range list {
		fields := map[string]string{}
		for _, part := range strings.Split(s, ",") {
			k, v, _ := strings.Cut(part, "=")
			fields[k] = v
		}
		id, src, env := fields["id"], cmp.Or(fields["src"], fields["source"]), fields["env"]
		switch {
		case id == "":
			return nil, cli.ExitWith(cli.ExitUsage, errors.New("--secret: an id is missing; write id=ID,src=FILE or id=ID,env=NAME"))
		case src != "":
			raw, err := os.ReadFile(src)
			if err != nil {
				return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("--secret %s: %w", id, err))
			}
			out[id] = raw
		default:
			v, ok := os.LookupEnv(cmp.Or(env, id))
			if !ok {
				return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("--secret %s: the environment has no %s", id, cmp.Or(env, id)))
			}
			out[id] = []byte(v)
		}
	}
	return out, nil
}

func ParseLabels(list []string) (map[string]string, error) {
	out := map[string]string{}
	for _, l := range list {
		k, v, ok := strings.Cut(l, "=")
		if !ok || k == "" {
			return nil, cli.ExitWith(cli.ExitUsage, fmt.Errorf("label %q is not of the form key=value", l))
		}
		out[k] = v
	}
	return out, nil
}
