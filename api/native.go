package api

import (
	"context"
	"regexp"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/builds"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Native answers imagebuilder.v1.ImageBuilder.
type Native struct {
	imagebuilderv1.UnimplementedImageBuilderServer
	*Service
}

var _ imagebuilderv1.ImageBuilderServer = Native{}

// BuildImage asks for one image.
func (n Native) BuildImage(ctx context.Context, req *imagebuilderv1.BuildImageRequest) (*imagebuilderv1.BuildImageResponse, error) {
	w, err := n.nativeWish(req)
	if err != nil {
		return nil, apiError(err)
	}
	adm, err := n.admit(ctx, w)
	if err != nil {
		return nil, apiError(err)
	}
	if p := adm.exists; p != nil {
		return &imagebuilderv1.BuildImageResponse{
			Build: &imagebuilderv1.Build{
				Ref: p.ref, BaseRef: p.baseRef, Digest: p.digest, Phase: builds.Succeeded, Source: p.source,
			},
			Exists: true,
			Read:   n.readInfo(),
		}, nil
	}
	return &imagebuilderv1.BuildImageResponse{Build: adm.build, Attached: adm.attached, Read: n.readInfo()}, nil
}

func (s *Service) nativeWish(req *imagebuilderv1.BuildImageRequest) (*wish, error) {
	if err := builds.CheckText("request_id", req.GetRequestId(), maxRequestID); err != nil {
		return nil, err
	}
	if err := builds.CheckText("requester", req.GetRequester(), maxRequester); err != nil {
		return nil, err
	}
	if err := checkLabels(req.GetLabels()); err != nil {
		return nil, err
	}
	if err := checkNativeSource(req.GetSource()); err != nil {
		return nil, err
	}
	if err := s.checkExtraTags(req.GetSource().GetDockerfile().GetExtraTags()); err != nil {
		return nil, err
	}
	if err := checkSecrets(req); err != nil {
		return nil, err
	}
	if b := req.GetBaseImageNameResolved(); b != "" {
		if err := builds.CheckRef("base_image_name_resolved", b); err != nil {
			return nil, err
		}
	}
	timeout := s.timeout
	if req.GetTimeout() != nil {
		if err := req.GetTimeout().CheckValid(); err != nil {
			return nil, invalidf("timeout is not valid")
		}
		timeout = req.GetTimeout().AsDuration()
		if timeout < time.Second || timeout > s.maxTimeout {
			return nil, invalidf("timeout must be between 1s and %s", s.maxTimeout)
		}
	}
	rights, registry, err := s.nativeRights(req.GetAuth())
	if err != nil {
		return nil, err
	}
	w := &wish{
		source: req.GetSource(), rights: rights,
		secrets:   &buildsv1.Secrets{Registry: registry, Build: req.GetSecrets(), Git: req.GetGitAuth()},
		requester: req.GetRequester(), requestID: req.GetRequestId(), labels: req.GetLabels(),
		timeout: timeout, force: req.GetForce(), baseResolved: req.GetBaseImageNameResolved(),
	}
	return w, nil
}

// checkExtraTags keeps extra tags in the base repository and away from the
// tags that keys make there: they are pushed with the install's rights.
func (s *Service) checkExtraTags(tags []string) error {
	for _, t := range tags {
		tag, ours := strings.CutPrefix(t, s.repos.Base+":")
		if !ours || !validTag.MatchString(tag) || keyTag.MatchString(tag) {
			return invalidf("extra_tags: %q is not allowed; use %s: and a tag of your own", t, s.repos.Base)
		}
	}
	return nil
}

var (
	validTag = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	keyTag   = regexp.MustCompile(`^([0-9a-f]{64}|context-.*|cache-.*)$`)
)

// checkSecrets bounds what is confidential and wants every named secret.
func checkSecrets(req *imagebuilderv1.BuildImageRequest) error {
	total := 0
	for id, v := range req.GetSecrets() {
		if err := builds.CheckText("secrets: an id", id, maxLabelVal); err != nil {
			return err
		}
		total += len(v)
	}
	if total > 1<<20 || len(req.GetSecrets()) > maxOptions {
		return invalidf("secrets: at most %d of 1 MiB in all are allowed", maxOptions)
	}
	for _, id := range req.GetSource().GetDockerfile().GetSecretIds() {
		if _, ok := req.GetSecrets()[id]; !ok {
			return invalidf("secrets: the source names secret %q, which the request does not give", id)
		}
	}
	if a := req.GetGitAuth(); len(a.GetUsername())+len(a.GetPassword()) > 64<<10 {
		return invalidf("git_auth is longer than 64 KiB")
	}
	return nil
}

func checkNativeSource(src *imagebuilderv1.Source) error {
	switch from := src.GetFrom().(type) {
	case *imagebuilderv1.Source_Ref:
		return builds.CheckRef("source.ref", from.Ref.GetRef())
	case *imagebuilderv1.Source_Dockerfile:
		return checkDockerfileSource(from.Dockerfile)
	}
	return invalidf("source is missing: give a ref or a Dockerfile")
}

func (s *Service) nativeRights(a *imagebuilderv1.RegistryAuth) (*buildsv1.Rights, map[string]*imagebuilderv1.BasicAuth, error) {
	hosts := append([]string(nil), a.GetAllowHosts()...)
	if a.GetAllowBaseRepository() {
		hosts = append(hosts, s.repos.BaseHost)
	}
	if a.GetAllowWorkspaceRepository() {
		hosts = append(hosts, s.repos.WorkspaceHost)
	}
	clean, err := hostsOf(hosts...)
	if err != nil {
		return nil, nil, err
	}
	if len(a.GetAdditional()) > maxHosts {
		return nil, nil, invalidf("auth.additional holds %d credentials, at most %d are allowed", len(a.GetAdditional()), maxHosts)
	}
	for host, cred := range a.GetAdditional() {
		if err := builds.CheckText("auth.additional: a host", host, maxLabelVal); err != nil {
			return nil, nil, err
		}
		if len(cred.GetUsername())+len(cred.GetPassword()) > 64<<10 {
			return nil, nil, invalidf("auth.additional: a credential is longer than 64 KiB")
		}
	}
	return &buildsv1.Rights{AllowAll: a.GetAllowAll(), Hosts: clean}, a.GetAdditional(), nil
}

// CancelBuild detaches a requester or stops the build.
func (n Native) CancelBuild(ctx context.Context, req *imagebuilderv1.CancelBuildRequest) (*imagebuilderv1.CancelBuildResponse, error) {
	if req.GetId() == "" {
		return nil, apiError(invalidf("id is empty: name a build"))
	}
	if err := builds.CheckText("reason", req.GetReason(), maxText); err != nil {
		return nil, apiError(err)
	}
	reason := buildsv1.StopReason_STOP_REASON_REQUESTER
	if req.GetOperator() {
		if err := requireOperator(ctx, "cancelling other people's builds"); err != nil {
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

// ResolveBaseImage answers the digest form of a reference.
func (n Native) ResolveBaseImage(ctx context.Context, req *imagebuilderv1.ResolveBaseImageRequest) (*imagebuilderv1.ResolveBaseImageResponse, error) {
	if err := builds.CheckRef("ref", req.GetRef()); err != nil {
		return nil, apiError(err)
	}
	if err := builds.CheckText("platform", req.GetPlatform(), maxLabelVal); err != nil {
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

// ResolveWorkspaceImage answers where a source would be published.
func (n Native) ResolveWorkspaceImage(ctx context.Context, req *imagebuilderv1.ResolveWorkspaceImageRequest) (*imagebuilderv1.ResolveWorkspaceImageResponse, error) {
	if err := checkNativeSource(req.GetSource()); err != nil {
		return nil, apiError(err)
	}
	rights, creds, err := n.nativeRights(req.GetAuth())
	if err != nil {
		return nil, apiError(err)
	}
	p, err := n.resolveWorkspace(ctx, &wish{
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

func (s *Service) resolveWorkspace(ctx context.Context, w *wish) (plan, error) {
	p, err := s.refs(ctx, w)
	if err != nil {
		return plan{}, err
	}
	p.digest, err = s.digestOf(ctx, p.ref)
	return p, err
}
