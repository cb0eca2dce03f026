package api

import (
	"context"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Native serves imagebuilder.v1.ImageBuilder.
type Native struct {
	imagebuilderv1.UnimplementedImageBuilderServer
	*Service
}

var _ imagebuilderv1.ImageBuilderServer = Native{}

// BuildImage requests one image. It returns a build, or the image if it exists.
func (n Native) BuildImage(ctx context.Context, req *imagebuilderv1.BuildImageRequest) (*imagebuilderv1.BuildImageResponse, error) {
	r, err := n.nativeRequest(req)
	if err != nil {
		return nil, apiError(err)
	}
	res, err := n.submit(ctx, r)
	if err != nil {
		return nil, apiError(err)
	}
	if p := res.existing; p != nil {
		return &imagebuilderv1.BuildImageResponse{
			Build: &imagebuilderv1.Build{
				Ref: p.ref, BaseRef: p.baseRef, Digest: p.digest, Phase: builds.Succeeded, Source: p.source,
			},
			Exists: true,
			Read:   n.readInfo(),
		}, nil
	}
	return &imagebuilderv1.BuildImageResponse{Build: res.build, Attached: res.attached, Read: n.readInfo()}, nil
}

// CancelBuild detaches a requester from a build. If no other requester remains, or if an operator
// calls, it stops the build.
func (n Native) CancelBuild(ctx context.Context, req *imagebuilderv1.CancelBuildRequest) (*imagebuilderv1.CancelBuildResponse, error) {
	if req.GetId() == "" {
		return nil, apiError(invalidf("id is empty: name a build"))
	}
	if err := checkText("reason", req.GetReason(), maxText); err != nil {
		return nil, apiError(err)
	}
	reason := buildsv1.StopReason_STOP_REASON_REQUESTER
	if req.GetOperator() {
		if err := requireOperator(ctx, "cancelling the builds of others"); err != nil {
			return nil, err
		}
		reason = buildsv1.StopReason_STOP_REASON_OPERATOR
	}
	res, _, err := builds.Propose(ctx, n.raft, &buildsv1.StopBuild{
		BuildId: req.GetId(), Reason: reason, Requester: req.GetRequester(), Message: req.GetReason(),
	})
	if err != nil {
		return nil, apiError(err)
	}
	return &imagebuilderv1.CancelBuildResponse{Build: res.Build, DetachedOnly: res.Detached, Read: n.readInfo()}, nil
}

// ResolveBaseImage returns the digest form of a reference: REPOSITORY@sha256:….
func (n Native) ResolveBaseImage(ctx context.Context, req *imagebuilderv1.ResolveBaseImageRequest) (*imagebuilderv1.ResolveBaseImageResponse, error) {
	if err := checkRef("ref", req.GetRef()); err != nil {
		return nil, apiError(err)
	}
	if err := checkText("platform", req.GetPlatform(), maxLabelVal); err != nil {
		return nil, apiError(err)
	}
	rights, creds, err := n.nativeRights(req.GetAuth())
	if err != nil {
		return nil, apiError(err)
	}
	rights.Additional = creds
	img, err := n.registry.Resolve(ctx, req.GetRef(), req.GetPlatform(), rights)
	if err != nil {
		return nil, apiError(err)
	}
	return &imagebuilderv1.ResolveBaseImageResponse{Ref: img.Ref, Digest: img.Digest, Read: n.readInfo()}, nil
}

// ResolveWorkspaceImage returns the references under which a source is published, whether the image
// exists, and the active build of it.
func (n Native) ResolveWorkspaceImage(ctx context.Context, req *imagebuilderv1.ResolveWorkspaceImageRequest) (*imagebuilderv1.ResolveWorkspaceImageResponse, error) {
	if err := checkNativeSource(req.GetSource()); err != nil {
		return nil, apiError(err)
	}
	rights, creds, err := n.nativeRights(req.GetAuth())
	if err != nil {
		return nil, apiError(err)
	}
	p, err := n.planWorkspace(ctx, &buildRequest{
		source: req.GetSource(), rights: rights, secrets: &buildsv1.Secrets{Registry: creds, Git: req.GetGitAuth()},
	})
	if err != nil {
		return nil, apiError(err)
	}
	res := &imagebuilderv1.ResolveWorkspaceImageResponse{
		Ref: p.ref, BaseRef: p.baseRef, Exists: p.digest != "", Digest: p.digest, Read: n.readInfo(),
	}
	n.store.Read(func(st *builds.State) { res.ActiveBuildId = st.Active(p.ref).GetBuild().GetId() })
	return res, nil
}
