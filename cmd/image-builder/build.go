package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/signal"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// authFlags say which registry credentials a request may use.
type authFlags struct {
	file     string
	allowAll bool
	hosts    []string
}

func (a *authFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.file, "registry-auth", "", "docker config.json whose credentials go with the request")
	f.BoolVar(&a.allowAll, "allow-all", false, "use the install's credentials for any registry")
	f.StringSliceVar(&a.hosts, "allow-host", nil, "use the install's credential for these registries")
}

func (a *authFlags) message() (*imagebuilderv1.RegistryAuth, error) {
	m := &imagebuilderv1.RegistryAuth{AllowAll: a.allowAll, AllowHosts: a.hosts}
	if a.file == "" {
		return m, nil
	}
	raw, err := os.ReadFile(a.file)
	if err != nil {
		return nil, exitError{exitUsage, fmt.Errorf("--registry-auth: %w", err)}
	}
	var file struct {
		Auths map[string]struct{ Username, Password, Auth string }
	}
	if json.Unmarshal(raw, &file) != nil {
		return nil, exitError{exitUsage, fmt.Errorf("--registry-auth: %s is no docker config.json", a.file)}
	}
	m.Additional = map[string]*imagebuilderv1.BasicAuth{}
	for host, c := range file.Auths {
		if dec, err := base64.StdEncoding.DecodeString(c.Auth); err == nil && c.Auth != "" {
			c.Username, c.Password, _ = strings.Cut(string(dec), ":")
		}
		m.Additional[host] = &imagebuilderv1.BasicAuth{Username: c.Username, Password: c.Password}
	}
	return m, nil
}

func defaultRequester() string { return cmp.Or(os.Getenv("USER"), "cli") }

func refSource(ref string) *imagebuilderv1.Source {
	return &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: ref}}}
}

// buildFlags are the flags of `build`.
type buildFlags struct {
	ref, requester, requestID        string
	labels                           []string
	timeout                          time.Duration
	detach, force                    bool
	file, target, gitTarget, network string
	tags, args, secrets, platforms   []string
	imageLabels                      []string
	noCache                          bool
	progress                         string
	provenance, sbom                 string
}

// defaultScanner is BuildKit's own choice.
const defaultScanner = "docker/buildkit-syft-scanner:stable-1"

func newBuildCommand() *cobra.Command {
	var c clientFlags
	var auth authFlags
	var b buildFlags
	cmd := &cobra.Command{
		Use: "build [CONTEXT] | --ref IMAGE", Short: "Build an image and follow it to its end", Args: cobra.MaximumNArgs(1),
		Long: `Builds an image and follows it: on a terminal the steps as they run, elsewhere the log on standard
output and phases on standard error; the digest last. CONTEXT is a directory with a Dockerfile, or the
URL of a git repository (http or https), with #REF or #REF:FOLDER for a branch, tag or commit and a
folder in it, or '-' for a tar archive, gzipped or not, on standard input; with --ref the workspace
image of an existing image is built instead. Ctrl-C leaves the build running.

Exit status: 0 success, 1 the build failed, 2 wrong usage, 3 the service is unavailable, 130 interrupted.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (b.ref == "") == (len(args) == 0) {
				return exitError{exitUsage, errors.New("name either a context, such as '.', or an image with --ref")}
			}
			if b.progress != "auto" && b.progress != "plain" && b.progress != "json" {
				return exitError{exitUsage, fmt.Errorf("--progress %q is unknown; use auto, plain or json", b.progress)}
			}
			api, done, err := c.dial()
			if err != nil {
				return err
			}
			defer done()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			req, err := b.request(ctx, api, args, cmd.InOrStdin())
			if err != nil {
				return c.explain(err)
			}
			if req.Auth, err = auth.message(); err != nil {
				return err
			}
			f := &follower{client: api, c: &c, out: cmd.OutOrStdout(), errOut: cmd.ErrOrStderr(), detach: b.detach, progress: b.progress}
			return f.build(ctx, req)
		},
	}
	c.register(cmd)
	auth.register(cmd)
	f := cmd.Flags()
	f.StringVar(&b.ref, "ref", "", "build the workspace image of this image")
	f.StringVar(&b.requester, "requester", defaultRequester(), "who asks")
	f.StringVar(&b.requestID, "request-id", "", "makes asking again answer the same build; random if empty")
	f.StringSliceVar(&b.labels, "build-label", nil, "labels of the build, key=value")
	f.DurationVar(&b.timeout, "timeout", 0, "limit of the whole build; the server's default if 0")
	f.BoolVar(&b.detach, "detach", false, "print the build's id and do not follow it")
	f.BoolVar(&b.force, "force", false, "build although the image exists")
	f.StringVarP(&b.file, "file", "f", "", "the Dockerfile; '-' for standard input")
	f.StringVar(&b.target, "target", "", "the stage to build")
	f.StringVar(&b.gitTarget, "git-target", "", "branch, tag or commit of a git context")
	f.StringVar(&b.network, "network", "", "network of RUN: default or none")
	f.StringSliceVarP(&b.tags, "tag", "t", nil, "further tags in the base repository")
	f.StringArrayVar(&b.args, "build-arg", nil, "build arguments, NAME=VALUE, or NAME for the environment's")
	f.StringArrayVar(&b.secrets, "secret", nil, "secrets for RUN --mount=type=secret: id=ID,src=FILE or id=ID,env=NAME")
	f.StringSliceVar(&b.platforms, "platform", nil, "platforms to build for")
	f.StringArrayVar(&b.imageLabels, "label", nil, "labels of the image, NAME=VALUE")
	f.StringVar(&b.provenance, "provenance", "", "attest how the image was built: min or max")
	f.StringVar(&b.sbom, "sbom", "", "attest what is in the image, by this scanner image (--sbom alone: "+defaultScanner+")")
	f.Lookup("sbom").NoOptDefVal = defaultScanner
	f.BoolVar(&b.noCache, "no-cache", false, "build every step anew")
	f.StringVar(&b.progress, "progress", "auto", "auto: live steps on a terminal; plain: the log; json: the build as a line at each change")
	return cmd
}

// request makes the request; it uploads the context if there is one to upload.
func (b *buildFlags) request(ctx context.Context, client imagebuilderv1.ImageBuilderClient, args []string, stdin io.Reader) (*imagebuilderv1.BuildImageRequest, error) {
	req := &imagebuilderv1.BuildImageRequest{
		RequestId: cmp.Or(b.requestID, uuid.NewString()), Requester: b.requester, Force: b.force || b.noCache,
	}
	var err error
	if req.Labels, err = parseLabels(b.labels); err != nil {
		return nil, err
	}
	if b.timeout > 0 {
		req.Timeout = durationpb.New(b.timeout)
	}
	if b.ref != "" {
		req.Source = refSource(b.ref)
		return req, nil
	}
	d := &imagebuilderv1.DockerfileSource{
		DockerfilePath: b.file, Target: b.target, Platforms: b.platforms, NoCache: b.noCache, NetworkMode: b.network, ExtraTags: b.tags,
		Provenance: b.provenance, SbomGenerator: b.sbom,
	}
	if d.ImageLabels, err = parseLabels(b.imageLabels); err != nil {
		return nil, err
	}
	d.BuildArgs = map[string]string{}
	for _, a := range b.args {
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
			return nil, exitError{exitUsage, errors.New("-f -: a git repository is built with a Dockerfile of its own; name one in it")}
		}
		uri, target, dir, err := splitGitURL(args[0], b.gitTarget)
		if err != nil {
			return nil, exitError{exitUsage, err}
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
			return nil, exitError{exitUsage, errors.New("--secret: an id is missing; write id=ID,src=FILE or id=ID,env=NAME")}
		case src != "":
			raw, err := os.ReadFile(src)
			if err != nil {
				return nil, exitError{exitUsage, fmt.Errorf("--secret %s: %w", id, err)}
			}
			out[id] = raw
		default:
			v, ok := os.LookupEnv(cmp.Or(env, id))
			if !ok {
				return nil, exitError{exitUsage, fmt.Errorf("--secret %s: the environment has no %s", id, cmp.Or(env, id))}
			}
			out[id] = []byte(v)
		}
	}
	return out, nil
}
