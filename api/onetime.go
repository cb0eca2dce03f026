package api

import (
	"context"

	"github.com/image-builder-ha/image-builder/builds"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// A one-time git credential is an URL that answers it once. It is spent only
// by a wish that makes a build: not for an image that exists, and not to join
// a build, which has the credential of whoever asked first.

// spend takes the one-time credential of a wish into its secrets and into the
// source of its plan. It answers the build that runs already for the same
// image instead, if there is one.
func (s *Service) spend(ctx context.Context, w *wish, p *plan) (*imagebuilderv1.Build, error) {
	if w.ots == "" || p.source.GetDockerfile().GetGit() == nil {
		return nil, nil
	}
	if err := s.catchUp(ctx, 0, true); err != nil {
		return nil, err
	}
	var active *buildsv1.Record
	s.store.Read(func(st *builds.State) { active = st.Active(p.ref) })
	if active != nil && active.StopReason == buildsv1.StopReason_STOP_REASON_UNSPECIFIED {
		return active.Build, nil
	}
	auth, err := s.redeem(ctx, w.ots)
	if err != nil {
		return nil, err
	}
	w.secrets.Git = auth
	p.source = proto.CloneOf(p.source)
	p.source.GetDockerfile().GetGit().Authenticated = true
	return nil, nil
}

// redeem fetches the git credential that a one-time URL answers. The URL is a
// secret itself: no error shows it.
func (s *Service) redeem(ctx context.Context, url string) (*imagebuilderv1.BasicAuth, error) {
	if s.oneTime == nil {
		return nil, status.Error(codes.FailedPrecondition, "one-time git credentials are not supported by this configuration")
	}
	user, password, err := s.oneTime(ctx, url)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, "the one-time git credential could not be fetched; it may have been used or expired")
	}
	return &imagebuilderv1.BasicAuth{Username: user, Password: password}, nil
}
