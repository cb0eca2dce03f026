package api

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/builds"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/tracing"
)

// Repositories are where an install keeps its images.
type Repositories struct {
	// Base and Workspace are repositories without tag, as in the config.
	Base, Workspace string
	// BaseHost and WorkspaceHost are their registries.
	BaseHost, WorkspaceHost string
}

// wish is a validated request of either API.
type wish struct {
	source    *imagebuilderv1.Source
	rights    *buildsv1.Rights // without credentials
	secrets   *buildsv1.Secrets
	requester string
	requestID string
	// requestMade: the caller chose no request id, the service made it.
	requestMade bool
	labels      map[string]string
	timeout     time.Duration
	force       bool
	// ots is a URL that answers the git credential once.
	ots string
	// supervisorRef is the supervisor image for Gitpod workspaces.
	supervisorRef string
	// baseResolved is a base image that an earlier build published.
	baseResolved string
}

// plan is what a wish comes to once the registry was asked.
type plan struct {
	source       *imagebuilderv1.Source
	ref, baseRef string
	// digest is set if the image exists.
	digest       string
	checkedIndex uint64
}

// rightsWith answers the rights of a request together with its credentials.
func (w *wish) rightsWith() *buildsv1.Rights {
	return &buildsv1.Rights{AllowAll: w.rights.GetAllowAll(), Hosts: w.rights.GetHosts(), Additional: w.secrets.GetRegistry()}
}

// own answers rights to the install's repositories: the service looks there on
// its own account, whatever the request may use (contract section 5).
func (r Repositories) own() *buildsv1.Rights {
	return &buildsv1.Rights{Hosts: []string{r.BaseHost, r.WorkspaceHost}}
}

// toRead answers the rights with which one image may be read: those of the
// request, and the install's own for what an earlier build published in the
// base repository, whatever the request may use (contract section 5).
func (r Repositories) toRead(ref string, rights *buildsv1.Rights) *buildsv1.Rights {
	rest, ok := strings.CutPrefix(ref, r.Base)
	if !ok || rest == "" || rest[0] != ':' && rest[0] != '@' || slices.Contains(rights.GetHosts(), r.BaseHost) {
		return rights
	}
	return &buildsv1.Rights{AllowAll: rights.GetAllowAll(), Hosts: append(slices.Clone(rights.GetHosts()), r.BaseHost), Additional: rights.GetAdditional()}
}

// refs answers the refs under which a source is published, and the source with
// its base image or git commit resolved. It asks nobody about other sources.
func (s *Service) refs(ctx context.Context, w *wish) (plan, error) {
	switch from := w.source.GetFrom().(type) {
	case *imagebuilderv1.Source_Ref:
		base, err := s.registry.Resolve(ctx, from.Ref.GetRef(), "", w.rightsWith())
		if err != nil {
			return plan{}, err
		}
		return plan{
			source:  refSource(base.Ref),
			ref:     WorkspaceRef(s.repos.Workspace, base.Ref),
			baseRef: base.Ref,
		}, nil
	case *imagebuilderv1.Source_Dockerfile:
		src, err := s.atCommit(ctx, w)
		if err != nil {
			return plan{}, err
		}
		base := dockerfileBaseRef(s.repos.Base, src.GetDockerfile())
		return plan{source: src, ref: WorkspaceRef(s.repos.Workspace, base), baseRef: base}, nil
	}
	return plan{}, invalidf("source is missing: give a ref or a Dockerfile")
}

// plan finds out what has to be done for a wish: nothing, a copy, or a
// Dockerfile build.
func (s *Service) plan(ctx context.Context, w *wish) (_ plan, err error) {
	ctx, span := tracing.Start(ctx, "plan")
	defer func() { tracing.End(span, err) }()
	if w.baseResolved != "" && !w.force {
		p, ok, err := s.planFromResolved(ctx, w)
		if err != nil || ok {
			return p, err
		}
	}
	p, err := s.refs(ctx, w)
	if err != nil {
		return plan{}, err
	}
	p.checkedIndex, _, _ = s.raft.Freshness()
	if w.force {
		return p, nil
	}
	var base builds.Image
	var g errgroup.Group
	g.Go(func() (err error) {
		p.digest, err = s.digestOf(ctx, p.ref)
		return err
	})
	if p.source.GetDockerfile() != nil {
		g.Go(func() (err error) {
			base, err = s.ifExists(ctx, p.baseRef)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return plan{}, err
	}
	if p.digest == "" && base.Ref != "" {
		p.source = refSource(s.repos.Base + "@" + base.Digest)
	}
	return p, nil
}

// planFromResolved plans a copy of the base image that the request names, if
// it is still there.
func (s *Service) planFromResolved(ctx context.Context, w *wish) (p plan, ok bool, err error) {
	p = plan{ref: WorkspaceRef(s.repos.Workspace, w.baseResolved), baseRef: w.baseResolved}
	p.checkedIndex, _, _ = s.raft.Freshness()
	if p.digest, err = s.digestOf(ctx, p.ref); err != nil {
		return plan{}, false, err
	}
	if p.digest != "" {
		p.source = w.source
		return p, true, nil
	}
	base, err := s.registry.Resolve(ctx, w.baseResolved, "", s.repos.toRead(w.baseResolved, w.rightsWith()))
	if gone(err) {
		return plan{}, false, nil
	}
	if err != nil {
		return plan{}, false, err
	}
	p.source = refSource(base.Ref)
	return p, true, nil
}

// gone reports whether an image does not resolve any more, whatever time passes:
// not where its registry cannot be asked now.
func gone(err error) bool {
	switch builds.ImageErrorKindOf(err) {
	case builds.ImageNotFound, builds.ImageUnauthorized, builds.ImageInvalid:
		return true
	}
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// ifExists answers the image at one of the install's own refs, or an empty one.
func (s *Service) ifExists(ctx context.Context, ref string) (builds.Image, error) {
	img, err := s.registry.Head(ctx, ref, s.repos.own())
	var image *builds.ImageError
	if errors.As(err, &image) && image.Kind == builds.ImageNotFound {
		return builds.Image{}, nil
	}
	return img, err
}

func (s *Service) digestOf(ctx context.Context, ref string) (string, error) {
	img, err := s.ifExists(ctx, ref)
	return img.Digest, err
}

func refSource(ref string) *imagebuilderv1.Source {
	return &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: ref}}}
}

// identity hashes what makes two requests the same: all of it but the values
// of secrets, which must not rest, not even hashed.
func (w *wish) identity() []byte {
	c := &buildsv1.CreateBuild{
		Source: w.source, Rights: w.rights, Requester: w.requester, Labels: w.labels,
		TimeoutNanos: int64(w.timeout), Force: w.force, BaseRef: w.baseResolved,
		Secrets: &buildsv1.Secrets{Build: map[string][]byte{}, Registry: map[string]*imagebuilderv1.BasicAuth{}},
	}
	for id := range w.secrets.GetBuild() {
		c.Secrets.Build[id] = nil
	}
	for host, a := range w.secrets.GetRegistry() {
		c.Secrets.Registry[host] = &imagebuilderv1.BasicAuth{Username: a.GetUsername()}
	}
	if g := w.secrets.GetGit(); g != nil {
		c.Secrets.Git = &imagebuilderv1.BasicAuth{Username: g.GetUsername()}
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil { // only invalid UTF-8, which validation refuses
		raw = nil
	}
	return []byte(hexSHA256(string(raw)))
}

// hostsOf cleans a list of hosts: lower case, sorted, no duplicates.
func hostsOf(hosts ...string) ([]string, error) {
	set := map[string]bool{}
	for _, h := range hosts {
		if h = strings.ToLower(strings.TrimSpace(h)); h == "" {
			continue
		}
		if err := builds.CheckText("a registry host", h, maxLabelVal); err != nil {
			return nil, err
		}
		set[h] = true
	}
	if len(set) > maxHosts {
		return nil, invalidf("%d registry hosts are given, at most %d are allowed", len(set), maxHosts)
	}
	return slices.Sorted(maps.Keys(set)), nil
}
