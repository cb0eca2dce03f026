package api

import (
	"context"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Gitpod serves builder.ImageBuilder, the API that Gitpod's server calls.
type Gitpod struct {
	builder.UnimplementedImageBuilderServer
	*Service
}

var _ builder.ImageBuilderServer = Gitpod{}

// ResolveBaseImage returns the digest form of a reference: REPOSITORY@sha256:….
func (g Gitpod) ResolveBaseImage(ctx context.Context, req *builder.ResolveBaseImageRequest) (*builder.ResolveBaseImageResponse, error) {
	if err := checkRef("ref", req.GetRef()); err != nil {
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

// ResolveWorkspaceImage returns the references under which a source is published. The status is
// done_success if the image exists, else unknown.
func (g Gitpod) ResolveWorkspaceImage(ctx context.Context, req *builder.ResolveWorkspaceImageRequest) (*builder.ResolveWorkspaceImageResponse, error) {
	r, err := g.gitpodRequest(req.GetSource(), req.GetAuth())
	if err != nil {
		return nil, apiError(err)
	}
	p, err := g.planWorkspace(ctx, r)
	if err != nil {
		return nil, apiError(err)
	}
	res := &builder.ResolveWorkspaceImageResponse{Ref: p.ref, BaseRef: p.baseRef, Status: builder.BuildStatus_unknown}
	if p.digest != "" {
		res.Status = builder.BuildStatus_done_success
	}
	return res, nil
}

// Build starts or joins a build and follows it to its end. The end of the call does not cancel the
// build.
func (g Gitpod) Build(req *builder.BuildRequest, stream builder.ImageBuilder_BuildServer) error {
	ctx := stream.Context()
	r, err := g.gitpodRequest(req.GetSource(), req.GetAuth())
	if err != nil {
		return apiError(err)
	}
	if err := checkText("triggered_by", req.GetTriggeredBy(), maxRequester); err != nil {
		return apiError(err)
	}
	if b := req.GetBaseImageNameResolved(); b != "" {
		if err := checkRef("base_image_name_resolved", b); err != nil {
			return apiError(err)
		}
	}
	r.requester = req.GetTriggeredBy()
	r.force = req.GetForceRebuild()
	r.baseResolved = req.GetBaseImageNameResolved()
	if ref := req.GetSupervisorRef(); ref != "" {
		if err := checkText("supervisor_ref", ref, maxText); err != nil {
			return apiError(err)
		}
		r.supervisorRef = ref
	}
	res, err := g.submit(ctx, r)
	if err != nil {
		return apiError(err)
	}
	if p := res.existing; p != nil {
		return stream.Send(&builder.BuildResponse{Status: builder.BuildStatus_done_success, Ref: p.ref, BaseRef: p.baseRef})
	}
	// The first message says running, even if the build has ended by now.
	b := proto.CloneOf(res.build)
	b.Phase = builds.Queued
	if err := stream.Send(&builder.BuildResponse{
		Status: builder.BuildStatus_running, Ref: b.Ref, BaseRef: b.BaseRef, Info: g.info(b, true),
	}); err != nil {
		return err
	}
	last, err := g.store.Wait(ctx, res.build.Id, func(r *buildsv1.Record) bool { return builds.Terminal(r.Build.Phase) })
	if err != nil {
		return apiError(err)
	}
	end := last.Build
	return stream.Send(&builder.BuildResponse{
		Status: gitpodStatus(end), Ref: end.Ref, BaseRef: end.BaseRef, Message: gitpodMessage(end), Info: g.info(end, true),
	})
}

// Logs streams the log of a build from its beginning to its end, all attempts one after the other.
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

// ListBuilds returns the active builds, newest first, as many as fit into 4 MiB. The response is
// made for the wire: it holds the encoded entries as unknown fields, and its field Builds is empty.
func (g Gitpod) ListBuilds(context.Context, *builder.ListBuildsRequest) (*builder.ListBuildsResponse, error) {
	raw, left, err := g.active.encoded(g.store.View(), func(r *buildsv1.Record) *builder.BuildInfo { return g.info(r.Build, false) })
	if err != nil {
		return nil, apiError(err)
	}
	if left > 0 && g.leftOff != nil {
		g.leftOff(left)
	}
	res := &builder.ListBuildsResponse{}
	// Unknown fields are sent as they are, and the client decodes them as its field builds. So a
	// call only copies bytes. Otherwise each call would create and encode up to 10,000 messages.
	res.ProtoReflect().SetUnknown(raw)
	return res, nil
}
