package api

import (
	"encoding/base64"
	"strings"

	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// gitpodRequest validates the fields that several requests of Gitpod's API have.
func (s *Service) gitpodRequest(src *builder.BuildSource, auth *builder.BuildRegistryAuth) (*buildRequest, error) {
	source, git, err := gitpodSource(src)
	if err != nil {
		return nil, err
	}
	ots := ""
	if c := src.GetFile().GetSource().GetGit().GetConfig(); c.GetAuthentication() == contentservice.GitAuthMethod_BASIC_AUTH_OTS {
		if ots = c.GetAuthOts(); ots == "" || checkText("auth_ots", ots, maxText) != nil {
			return nil, invalidf("auth_ots is empty or not a URL")
		}
	}
	rights, creds, err := s.gitpodRights(auth)
	if err != nil {
		return nil, err
	}
	return &buildRequest{
		source: source, rights: rights, timeout: s.timeout, oneTimeURL: ots,
		secrets: &buildsv1.Secrets{Registry: creds, Git: git},
	}, nil
}

// gitpodSource translates a source. It returns the git credential of the source separately.
func gitpodSource(src *builder.BuildSource) (*imagebuilderv1.Source, *imagebuilderv1.BasicAuth, error) {
	switch from := src.GetFrom().(type) {
	case *builder.BuildSource_Ref:
		if err := checkRef("source.ref", from.Ref.GetRef()); err != nil {
			return nil, nil, err
		}
		return refSource(from.Ref.GetRef()), nil, nil
	case *builder.BuildSource_File:
		return gitpodDockerfile(from.File)
	}
	return nil, nil, invalidf("source is missing: give a ref or a Dockerfile")
}

// gitpodDockerfile translates a Dockerfile source. It returns the git credential separately.
func gitpodDockerfile(f *builder.BuildSourceDockerfile) (*imagebuilderv1.Source, *imagebuilderv1.BasicAuth, error) {
	g := f.GetSource().GetGit()
	if g == nil {
		return nil, nil, invalidf("source.file.source is %s: only a git initializer can be built", initializerName(f.GetSource()))
	}
	d := &imagebuilderv1.DockerfileSource{
		Context: &imagebuilderv1.DockerfileSource_Git{Git: &imagebuilderv1.GitContext{
			RemoteUri:         g.GetRemoteUri(),
			UpstreamRemoteUri: g.GetUpstream_RemoteUri(),
			CloneTarget:       g.GetCloneTaget(),
			TargetMode:        imagebuilderv1.GitTargetMode(g.GetTargetMode()),
			CheckoutLocation:  g.GetCheckoutLocation(),
			FullClone:         g.GetFullClone(),
			Config:            g.GetConfig().GetCustomConfig(),
		}},
		DockerfilePath:    f.GetDockerfilePath(),
		ContextPath:       f.GetContextPath(),
		DockerfileVersion: f.GetDockerfileVersion(),
	}
	if err := checkDockerfileSource(d); err != nil {
		return nil, nil, err
	}
	var auth *imagebuilderv1.BasicAuth
	if c := g.GetConfig(); c.GetAuthentication() == contentservice.GitAuthMethod_BASIC_AUTH {
		auth = &imagebuilderv1.BasicAuth{Username: c.GetAuthUser(), Password: c.GetAuthPassword()}
		d.GetGit().Authenticated = true
	}
	return &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: d}}, auth, nil
}

// initializerName returns the kind of an initializer, for errors.
func initializerName(w *contentservice.WorkspaceInitializer) string {
	switch w.GetSpec().(type) {
	case *contentservice.WorkspaceInitializer_Empty:
		return "an empty initializer"
	case *contentservice.WorkspaceInitializer_Snapshot:
		return "a snapshot initializer"
	case *contentservice.WorkspaceInitializer_Prebuild:
		return "a prebuild initializer"
	case *contentservice.WorkspaceInitializer_Composite:
		return "a composite initializer"
	case *contentservice.WorkspaceInitializer_Download:
		return "a download initializer"
	case *contentservice.WorkspaceInitializer_Backup:
		return "a backup initializer"
	case *contentservice.WorkspaceInitializer_Git:
		return "a git initializer without content"
	}
	return "missing"
}

// gitpodRights returns the rights of a request and its registry credentials by host
// (docs/gitpod-contract.md, section 9). It leaves out credentials that are not base64 of
// user:password.
func (s *Service) gitpodRights(a *builder.BuildRegistryAuth) (*buildsv1.Rights, map[string]*imagebuilderv1.BasicAuth, error) {
	var hosts []string
	if sel := a.GetSelective(); sel != nil {
		hosts = append(hosts, sel.GetAnyOf()...)
		if sel.GetAllowBaserep() {
			hosts = append(hosts, s.repos.BaseHost)
		}
		if sel.GetAllowWorkspacerep() {
			hosts = append(hosts, s.repos.WorkspaceHost)
		}
	}
	clean, err := cleanHosts(hosts...)
	if err != nil {
		return nil, nil, err
	}
	if len(a.GetAdditional()) > maxHosts {
		return nil, nil, invalidf("auth.additional holds %d credentials, at most %d are allowed", len(a.GetAdditional()), maxHosts)
	}
	creds := map[string]*imagebuilderv1.BasicAuth{}
	for host, enc := range a.GetAdditional() {
		if err := checkText("auth.additional: a host", host, maxLabelVal); err != nil {
			return nil, nil, err
		}
		if len(enc) > 64<<10 {
			return nil, nil, invalidf("auth.additional: a credential is longer than 64 KiB")
		}
		raw, err := base64.StdEncoding.DecodeString(enc)
		user, pass, ok := strings.Cut(string(raw), ":")
		if err != nil || !ok {
			continue // users have such entries, which the original ignores too (contract section 9)
		}
		creds[host] = &imagebuilderv1.BasicAuth{Username: user, Password: pass}
	}
	return &buildsv1.Rights{AllowAll: a.GetTotal().GetAllowAll(), Hosts: clean}, creds, nil
}
