package api

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// A one-time git credential is a URL that returns the credential once. Only a request that creates
// a build uses it. A request whose image exists does not need it, and a request that joins a build
// uses the credential of the first requester. Such a request is proposed without any secrets, so that
// it joins a build or fails, and creates none.

// useOneTime fetches the one-time credential of a request and adds it to the secrets of the request
// and to the source of the plan. If the request joins a build of the same image, it returns that
// build and fetches nothing. It fetches nothing either if the build would be refused now, for example
// because the queue is full: the URL is good for one use.
func (s *Service) useOneTime(ctx context.Context, r *buildRequest, p *plan) (*imagebuilderv1.Build, error) {
	if r.oneTimeURL == "" || p.source.GetDockerfile().GetGit() == nil {
		return nil, nil
	}
	if err := s.catchUp(ctx, 0, true); err != nil {
		return nil, err
	}
	p.source = proto.CloneOf(p.source)
	p.source.GetDockerfile().GetGit().Authenticated = true
	if r.oneTimeUsed { // before the image was looked for again
		return nil, nil
	}
	var joined *buildsv1.Record
	var err error
	s.store.Read(func(st *builds.State) {
		if joined, err = st.Join(p.ref, p.source, r.fresh); joined == nil && err == nil {
			err = st.Refusal(&buildsv1.CreateBuild{
				Ref: p.ref, Source: p.source, Fresh: r.fresh, Force: r.force, CheckedIndex: p.checkedIndex,
				Requester: r.requester, RequestId: r.requestID,
			})
		}
	})
	if joined != nil || err != nil {
		return joined.GetBuild(), err
	}
	r.secrets.Git, err = s.fetchOneTime(ctx, r.oneTimeURL)
	r.oneTimeUsed = err == nil
	return nil, err
}

// fetchOneTime fetches a git credential from a one-time URL. The URL is a secret itself, so no
// error contains it.
func (s *Service) fetchOneTime(ctx context.Context, url string) (*imagebuilderv1.BasicAuth, error) {
	if s.oneTime == nil {
		return nil, status.Error(codes.FailedPrecondition, "one-time git credentials are not supported by this configuration")
	}
	user, password, err := s.oneTime(ctx, url)
	if err != nil {
		return nil, status.Error(codes.Unauthenticated, "the one-time git credential could not be fetched; it may have been used or expired")
	}
	return &imagebuilderv1.BasicAuth{Username: user, Password: password}, nil
}
