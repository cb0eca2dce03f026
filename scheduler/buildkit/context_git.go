package buildkit

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// loadGit is the prefix of the names of the steps that load a git context.
const loadGit = "[internal] load git source "

// openGit prepares a context that the daemon fetches from a git repository. The daemon receives the
// credential as a secret with a random name, so that no Dockerfile can mount it.
func openGit(g *imagebuilderv1.GitContext, s *buildsv1.Secrets, l layout) (*source, error) {
	ref, err := gitRef(g)
	if err != nil {
		return nil, userFailure(err)
	}
	if err := checkRemote(g.GetRemoteUri()); err != nil {
		return nil, userFailure(err)
	}
	src := &source{
		key: "git " + g.GetRemoteUri(),
		git: &gitContext{remote: g.GetRemoteUri()},
		// BuildKit fetches with depth 1. The field full_clone has no effect: the files are the
		// same.
		close: func() error { return nil },
	}
	opts := []llb.GitOption{llb.WithCustomName(loadGit + g.GetRemoteUri() + "#" + ref)}
	if ref != "" {
		opts = append(opts, llb.GitRef(ref))
	}
	var own bool
	if src.git.header, own = contextHeader(s, g.GetRemoteUri()); own {
		name := "git-" + rand.Text()
		src.secrets = map[string][]byte{name: []byte(src.git.header)}
		opts = append(opts, llb.AuthHeaderSecret(name), llb.AuthTokenSecret(""))
	}
	state := func(dir string) llb.State {
		o := opts
		if dir != "." {
			o = append(o[:len(o):len(o)], llb.GitSubDir(dir))
		}
		return llb.Git(g.GetRemoteUri(), "", o...)
	}
	main := state(l.dir)
	src.context = &main
	src.dockerfile = func(ctx context.Context, c gateway.Client) (dockerfile, error) {
		return gitDockerfile(ctx, c, l, state)
	}
	return src, nil
}

// gitRef returns the ref to check out; "" means the default branch of the remote. A local branch
// starts at that branch, so that it has the same files.
func gitRef(g *imagebuilderv1.GitContext) (string, error) {
	switch g.GetTargetMode() {
	case imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_HEAD, imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_LOCAL_BRANCH:
		return "", nil
	case imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_COMMIT, imagebuilderv1.GitTargetMode_GIT_TARGET_MODE_REMOTE_BRANCH:
		if t := g.GetCloneTarget(); strings.HasPrefix(t, "-") || strings.ContainsAny(t, "\x00\n\r :#") {
			return "", fmt.Errorf("the clone target %q is not a branch, tag or commit", t)
		}
		return g.GetCloneTarget(), nil
	}
	return "", fmt.Errorf("the target mode %v of the git context is not known", g.GetTargetMode())
}

func checkRemote(remote string) error {
	u, err := url.Parse(remote)
	switch {
	case err != nil || u.Host == "":
		return errors.New("the git repository is not named by an http or https URL, as in https://host/path.git")
	case u.Scheme != "http" && u.Scheme != "https":
		return fmt.Errorf("git repositories are fetched over http and https, not %s", u.Scheme)
	case u.User != nil:
		return errors.New("the URL of the git repository contains a credential: pass it separately")
	}
	return nil
}

// contextHeader returns the Authorization header for the repository of a context. It uses the
// request's git credential if there is one (own is true), and the build secrets otherwise.
func contextHeader(s *buildsv1.Secrets, remote string) (header string, own bool) {
	if b := s.GetGit(); b.GetUsername() != "" || b.GetPassword() != "" {
		return "basic " + base64.StdEncoding.EncodeToString([]byte(b.GetUsername()+":"+b.GetPassword())), true
	}
	return gitHeader(s.GetBuild(), remote), false
}

// gitHeader returns the Authorization header that BuildKit derives for the remote from build
// secrets with the names that Docker documents, or "" if there are none.
func gitHeader(secrets map[string][]byte, remote string) string {
	u, err := url.Parse(remote)
	if err != nil {
		return ""
	}
	for _, suffix := range []string{"." + u.Host, ""} {
		if v := secrets[llb.GitAuthHeaderKey+suffix]; len(v) > 0 {
			return string(v)
		}
		if v := secrets[llb.GitAuthTokenKey+suffix]; len(v) > 0 {
			return "basic " + base64.StdEncoding.EncodeToString(append([]byte("x-access-token:"), v...))
		}
	}
	return ""
}

// is reports whether remote names the repository of the context.
func (g *gitContext) is(remote string) bool {
	a, errA := url.Parse(g.remote)
	b, errB := url.Parse(remote)
	return errA == nil && errB == nil && a.Scheme == b.Scheme && strings.EqualFold(a.Host, b.Host) && path.Clean(a.Path) == path.Clean(b.Path)
}

// gitDockerfile reads the Dockerfile, and its ignore file if there is one, from the repository.
func gitDockerfile(ctx context.Context, c gateway.Client, l layout, state func(dir string) llb.State) (dockerfile, error) {
	var errs []error
	for _, file := range l.dockerfiles {
		// Prefer the folder that is checked out anyway: BuildKit then fetches only once.
		dir, name := ".", file
		if l.dir != "." && strings.HasPrefix(file, l.dir+"/") {
			dir, name = l.dir, strings.TrimPrefix(file, l.dir+"/")
		}
		ref, err := solveState(ctx, c, state(dir))
		if err != nil {
			return dockerfile{}, err
		}
		data, err := readDockerfile(ctx, ref, name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ignore, err := readDockerfile(ctx, ref, name+".dockerignore")
		if err != nil {
			ignore = nil
		}
		return dockerfile{path: file, data: data, ignore: ignore}, nil
	}
	return dockerfile{}, noDockerfile(l, errors.Join(errs...))
}

// readDockerfile reads at most one byte more than maxDockerfile, to detect larger files.
func readDockerfile(ctx context.Context, ref gateway.Reference, name string) ([]byte, error) {
	data, err := ref.ReadFile(ctx, gateway.ReadRequest{Filename: name, Range: &gateway.FileRange{Length: maxDockerfile + 1}})
	if err != nil && strings.EqualFold(path.Base(name), "Dockerfile") && path.Base(name) != "dockerfile" {
		data, err = ref.ReadFile(ctx, gateway.ReadRequest{Filename: path.Join(path.Dir(name), "dockerfile"), Range: &gateway.FileRange{Length: maxDockerfile + 1}})
	}
	if err == nil && len(data) > maxDockerfile {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxDockerfile)
	}
	return data, err
}

func solveState(ctx context.Context, c gateway.Client, state llb.State) (gateway.Reference, error) {
	def, err := state.Marshal(ctx)
	if err != nil {
		return nil, fmt.Errorf("describe the git source to BuildKit: %w", err)
	}
	res, err := c.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB(), Evaluate: true})
	if err != nil {
		return nil, err
	}
	return res.SingleRef()
}
