package api

import (
	"context"

	"github.com/image-builder-ha/image-builder/builds"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Gitpod answers builder.ImageBuilder, the API that Gitpod's server calls.
type Gitpod struct {
	builder.UnimplementedImageBuilderServer
	*Service
}

var _ builder.ImageBuilderServer = Gitpod{}

// ResolveBaseImage answers the digest form of a reference.
func (g Gitpod) ResolveBaseImage(ctx context.Context, req *builder.ResolveBaseImageRequest) (*builder.ResolveBaseImageResponse, error) {
	if err := builds.CheckRef("ref", req.GetRef()); err != nil {
		return nil, apiError(err)
	}
	rights, creds, err := g.gitpodRights(req.GetAuth())
	if err != nil {
		return nil, apiError(err)
	}
	rights.Additional = creds
	img, err := g.registry.Resolve(ctx, req.GetRef(), "", rights)
	if err != nil {
		return nil, apiError(err)
	}
	return &builder.ResolveBaseImageResponse{Ref: img.Ref}, nil
}

// ResolveWorkspaceImage answers where a source would be published and whether
// it is there: done_success, else unknown.
func (g Gitpod) ResolveWorkspaceImage(ctx context.Context, req *builder.ResolveWorkspaceImageRequest) (*builder.ResolveWorkspaceImageResponse, error) {
	w, err := g.gitpodWish(req.GetSource(), req.GetAuth())
	if err != nil {
		return nil, apiError(err)
	}
	p, err := g.resolveWorkspace(ctx, w)
	if err != nil {
		return nil, apiError(err)
	}
	res := &builder.ResolveWorkspaceImageResponse{Ref: p.ref, BaseRef: p.baseRef, Status: builder.BuildStatus_unknown}
	if p.digest != "" {
		res.Status = builder.BuildStatus_done_success
	}
	return res, nil
}

// Build starts or joins a build and follows it to its end. A client that goes
// away does not cancel it.
func (g Gitpod) Build(req *builder.BuildRequest, stream builder.ImageBuilder_BuildServer) error {
	ctx := stream.Context()
	w, err := g.gitpodWish(req.GetSource(), req.GetAuth())
	if err != nil {
		return apiError(err)
	}
	if err := builds.CheckText("triggered_by", req.GetTriggeredBy(), maxRequester); err != nil {
		return apiError(err)
	}
	if b := req.GetBaseImageNameResolved(); b != "" {
		if err := builds.CheckRef("base_image_name_resolved", b); err != nil {
			return apiError(err)
		}
	}
	w.requester = req.GetTriggeredBy()
	w.force = req.GetForceRebuild()
	w.baseResolved = req.GetBaseImageNameResolved()
	if r := req.GetSupervisorRef(); r != "" {
		if err := builds.CheckText("supervisor_ref", r, maxText); err != nil {
			return apiError(err)
		}
		w.supervisorRef = r
	}
	adm, err := g.admit(ctx, w)
	if err != nil {
		return apiError(err)
	}
	if p := adm.exists; p != nil {
		return stream.Send(&builder.BuildResponse{Status: builder.BuildStatus_done_success, Ref: p.ref, BaseRef: p.baseRef})
	}
	// The running message comes first, also if the build is over by now.
	b := proto.CloneOf(adm.build)
	b.Phase = builds.Queued
	if err := stream.Send(&builder.BuildResponse{
		Status: builder.BuildStatus_running, Ref: b.Ref, BaseRef: b.BaseRef, Info: g.info(b, true),
	}); err != nil {
		return err
	}
	r, err := g.awaitEnd(ctx, adm.build.Id)
	if err != nil {
		return apiError(err)
	}
	end := r.Build
	return stream.Send(&builder.BuildResponse{
		Status: gitpodStatus(end), Ref: end.Ref, BaseRef: end.BaseRef, Message: gitpodMessage(end), Info: g.info(end, true),
	})
}

func (s *Service) awaitEnd(ctx context.Context, id string) (*buildsv1.Record, error) {
	return s.store.Wait(ctx, id, func(r *buildsv1.Record) bool { return builds.Terminal(r.Build.Phase) })
}

// Logs streams the log of a build from its beginning to its end, all attempts
// one after the other.
func (g Gitpod) Logs(req *builder.LogsRequest, stream builder.ImageBuilder_LogsServer) error {
	if req.GetBuildRef() == "" && req.GetBuildId() == "" {
		return apiError(invalidf("build_ref is empty: name a build"))
	}
	r, err := g.find(stream.Context(), req.GetBuildId(), req.GetBuildRef())
	if err != nil {
		return apiError(err)
	}
	return apiError(g.streamLogs(stream.Context(), logRequest{build: r.Build.Id, follow: true},
		func(_ uint32, _ int64, content []byte, _ bool) error {
			return stream.Send(&builder.LogsResponse{Content: content})
		}))
}
