package api

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/tracing"
)

// submit turns a request into a build, joins an existing build, or finds that the image exists. It
// may change r.
func (s *Service) submit(ctx context.Context, r *buildRequest) (buildResult, error) {
	hash := r.identity()
	if r.requestID != "" {
		if res, known, err := s.knownResult(r, hash); known {
			return res, err
		}
	} else {
		// The command may be proposed again while the leader changes. The id prevents that this
		// creates a second build.
		r.requestID, r.generatedID = uuid.NewString(), true
	}
	res, err := s.submitOnce(ctx, r, hash)
	if !errors.Is(err, builds.ErrLookAgain) {
		return res, err
	}
	// The state of this node was too old when the node looked for the image.
	if err := s.catchUp(ctx, 0, true); err != nil {
		return buildResult{}, err
	}
	return s.submitOnce(ctx, r, hash)
}

// submitOnce plans a request and proposes CreateBuild. It proposes nothing if the image exists, or
// if the request has a one-time credential and joins an existing build. It may change r.
func (s *Service) submitOnce(ctx context.Context, r *buildRequest, hash []byte) (buildResult, error) {
	p, err := s.plan(ctx, r)
	if err != nil {
		return buildResult{}, err
	}
	if p.digest != "" {
		tracing.Set(ctx, tracing.Ref.String(p.ref), tracing.Exists.Bool(true))
		return buildResult{existing: &p}, nil
	}
	if p.source.GetDockerfile() != nil && !s.dockerfiles {
		return buildResult{}, status.Error(codes.FailedPrecondition, "no runtime for Dockerfile builds is configured")
	}
	if err := s.requireContext(ctx, p.source); err != nil {
		return buildResult{}, err
	}
	for range joinTries {
		active, err := s.useOneTime(ctx, r, &p)
		if err != nil {
			return buildResult{}, err
		}
		if active == nil {
			return s.propose(ctx, s.createBuild(ctx, r, &p, hash))
		}
		res, err := s.join(ctx, active, s.createBuild(ctx, r, &p, hash))
		if !errors.Is(err, builds.ErrSecretsLost) { // else the build has ended meanwhile
			return res, err
		}
	}
	return buildResult{}, builds.ErrSecretsLost
}

// createBuild returns the command that creates the build of a request, or joins one.
func (s *Service) createBuild(ctx context.Context, r *buildRequest, p *plan, hash []byte) *buildsv1.CreateBuild {
	return &buildsv1.CreateBuild{
		Ref: p.ref, BaseRef: p.baseRef, Source: p.source,
		Rights: s.repos.rightsToRead(p.source.GetRef().GetRef(), r.rights), Secrets: r.secrets, HasSecrets: proto.Size(r.secrets) > 0,
		Requester: r.requester, RequestId: r.requestID, RequestMade: r.generatedID, RequestHash: hash,
		Labels: r.labels, TimeoutNanos: int64(r.timeout), Force: r.force, Fresh: r.fresh,
		CheckedIndex: p.checkedIndex, SupervisorRef: r.supervisorRef,
		Traceparent: tracing.Traceparent(ctx),
	}
}

// propose proposes the build of a request.
func (s *Service) propose(ctx context.Context, cmd *buildsv1.CreateBuild) (buildResult, error) {
	if res, ok := s.mutated(cmd); ok {
		return res, nil
	}
	res, _, err := builds.Propose(ctx, s.raft, cmd)
	if err != nil {
		return buildResult{}, err
	}
	s.traceResult(ctx, res)
	return buildResult{build: res.Build, attached: res.Attached}, nil
}

// knownResult returns the result of a request id that the local state contains, so that a repeated
// request needs no registry. If the state of this node is old, it may not contain the id yet. Then
// Apply finds the id when it applies CreateBuild.
func (s *Service) knownResult(r *buildRequest, hash []byte) (res buildResult, known bool, err error) {
	var req *buildsv1.Request
	var b *buildsv1.Record
	s.store.Read(func(st *builds.State) {
		if req = st.Request(r.requester, r.requestID); req != nil {
			b = st.Build(req.BuildId)
		}
	})
	switch {
	case req == nil:
		return buildResult{}, false, nil
	case string(req.Hash) != string(hash):
		return buildResult{}, true, builds.ErrRequestReused
	case b == nil:
		return buildResult{}, true, builds.ErrRequestForgotten
	}
	return buildResult{build: b.Build, attached: req.Attached}, true, nil
}

// traceResult adds the result of a call to its span. A call that joined a build is linked to the
// trace of that build.
func (s *Service) traceResult(ctx context.Context, res builds.Result) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return
	}
	tracing.Set(ctx, tracing.Build.String(res.Build.GetId()), tracing.Ref.String(res.Build.GetRef()), tracing.Attached.Bool(res.Attached))
	if res.Attached {
		tracing.Link(ctx, s.store.Build(res.Build.GetId()).GetTraceparent())
	}
}

// joinTries is how often a request tries to join builds that end meanwhile.
const joinTries = 3

// join makes the requester of cmd one of those of an active build of the same image, without the
// secrets of cmd, and records the request id. It returns builds.ErrSecretsLost if there is no such
// build any more. A cluster below the feature level records nothing.
func (s *Service) join(ctx context.Context, active *imagebuilderv1.Build, cmd *buildsv1.CreateBuild) (buildResult, error) {
	if s.store.View().Level() < builds.JoinLevel {
		return buildResult{build: active, attached: true}, nil
	}
	cmd.Secrets, cmd.HasSecrets = nil, true
	return s.propose(ctx, cmd)
}
