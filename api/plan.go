package api

import (
	"context"
	"errors"
	"net"

	"golang.org/x/sync/errgroup"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/tracing"
)

// plan resolves a request against the registry. The source of the plan is a Dockerfile, or an image
// to copy if the base image exists. If the plan has a digest, the image exists and no build is
// needed.
func (s *Service) plan(ctx context.Context, r *buildRequest) (_ plan, err error) {
	ctx, span := tracing.Start(ctx, "plan")
	defer func() { tracing.End(span, err) }()
	if r.baseResolved != "" && !r.force {
		p, ok, err := s.planFromResolved(ctx, r)
		if err != nil || ok {
			return p, err
		}
	}
	p, err := s.planRefs(ctx, r)
	if err != nil {
		return plan{}, err
	}
	p.checkedIndex, _, _ = s.raft.Freshness()
	if r.force {
		return p, nil
	}
	var base builds.Image
	var g errgroup.Group
	g.Go(func() (err error) {
		p.digest, err = s.ownDigest(ctx, p.ref)
		return err
	})
	if p.source.GetDockerfile() != nil {
		g.Go(func() (err error) {
			base, err = s.ownImage(ctx, p.baseRef)
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

// planFromResolved plans a copy of the base image that the request names. ok is false if that image
// no longer exists.
func (s *Service) planFromResolved(ctx context.Context, r *buildRequest) (p plan, ok bool, err error) {
	p = plan{ref: WorkspaceRef(s.repos.Workspace, r.baseResolved), baseRef: r.baseResolved}
	p.checkedIndex, _, _ = s.raft.Freshness()
	if p.digest, err = s.ownDigest(ctx, p.ref); err != nil {
		return plan{}, false, err
	}
	if p.digest != "" {
		p.source = r.source
		return p, true, nil
	}
	base, err := s.registry.Resolve(ctx, r.baseResolved, "", s.repos.rightsToRead(r.baseResolved, r.fullRights()))
	if gone(err) {
		return plan{}, false, nil
	}
	if err != nil {
		return plan{}, false, err
	}
	p.source = refSource(base.Ref)
	return p, true, nil
}

// planWorkspace plans where a source is published, with the digest of the image if it exists.
func (s *Service) planWorkspace(ctx context.Context, r *buildRequest) (plan, error) {
	p, err := s.planRefs(ctx, r)
	if err != nil {
		return plan{}, err
	}
	p.digest, err = s.ownDigest(ctx, p.ref)
	return p, err
}

// planRefs returns the references under which a source is published, and the source with its base
// image or its git commit resolved. For other sources it makes no request.
func (s *Service) planRefs(ctx context.Context, r *buildRequest) (plan, error) {
	switch from := r.source.GetFrom().(type) {
	case *imagebuilderv1.Source_Ref:
		base, err := s.registry.Resolve(ctx, from.Ref.GetRef(), "", r.fullRights())
		if err != nil {
			return plan{}, err
		}
		return plan{
			source:  refSource(base.Ref),
			ref:     WorkspaceRef(s.repos.Workspace, base.Ref),
			baseRef: base.Ref,
		}, nil
	case *imagebuilderv1.Source_Dockerfile:
		src, err := s.resolveCommit(ctx, r)
		if err != nil {
			return plan{}, err
		}
		base := dockerfileBaseRef(s.repos.Base, src.GetDockerfile())
		return plan{source: src, ref: WorkspaceRef(s.repos.Workspace, base), baseRef: base}, nil
	}
	return plan{}, invalidf("source is missing: give a ref or a Dockerfile")
}

// gone reports whether an error means that an image no longer resolves, and will not after a retry.
// A registry that cannot be reached now is no such error.
func gone(err error) bool {
	switch builds.ImageErrorKindOf(err) {
	case builds.ImageNotFound, builds.ImageUnauthorized, builds.ImageInvalid:
		return true
	}
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// ownImage returns the image at a reference of the install's own repositories, or the zero Image if
// there is none.
func (s *Service) ownImage(ctx context.Context, ref string) (builds.Image, error) {
	img, err := s.registry.Head(ctx, ref, s.repos.ownRights())
	if builds.ImageErrorKindOf(err) == builds.ImageNotFound {
		return builds.Image{}, nil
	}
	return img, err
}

// ownDigest returns the digest of the image that ownImage returns, or "".
func (s *Service) ownDigest(ctx context.Context, ref string) (string, error) {
	img, err := s.ownImage(ctx, ref)
	return img.Digest, err
}

// refSource returns the source that copies an image.
func refSource(ref string) *imagebuilderv1.Source {
	return &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: ref}}}
}
