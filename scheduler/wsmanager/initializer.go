package wsmanager

import (
	"fmt"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// unsupported returns a failure that blames the request for an option that a build workspace does
// not support.
func unsupported(what string) error {
	return &workload.Failure{
		Blame:   builds.BlameUser,
		Message: fmt.Sprintf("%s cannot be used: builds in Gitpod workspaces do not support it; remove it or use an install with another builder", what),
	}
}

// initializer returns the initializer that fills the context directory of the workspace.
func initializer(w *workload.Workload) (*contentservice.WorkspaceInitializer, error) {
	d := w.Source.GetDockerfile()
	if d == nil {
		if w.Source.GetRef() == nil {
			return nil, &workload.Failure{Blame: builds.BlameInfrastructure, Message: "the build has no source: this is a defect of image-builder"}
		}
		return &contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Empty{Empty: &contentservice.EmptyInitializer{}}}, nil
	}
	for _, option := range []struct {
		name string
		used bool
	}{
		{"build_args", len(d.BuildArgs) > 0},
		{"target", d.Target != ""},
		{"no_cache", d.NoCache},
		{"image_labels", len(d.ImageLabels) > 0},
		{"secret_ids", len(d.SecretIds) > 0},
		{"network_mode", d.NetworkMode != "" && d.NetworkMode != "default"},
		{"platforms", len(d.Platforms) > 1 || len(d.Platforms) == 1 && d.Platforms[0] != "linux/amd64"},
		{"an uploaded context", d.GetUpload() != nil},
	} {
		if option.used {
			return nil, unsupported(option.name)
		}
	}
	if files := d.GetDownload(); files != nil {
		return downloads(files), nil
	}
	if d.GetGit() == nil {
		return nil, &workload.Failure{Blame: builds.BlameUser, Message: "the Dockerfile has no context: name a git repository"}
	}
	return clone(d.GetGit(), w.Secrets.GetGit()), nil
}

func downloads(d *imagebuilderv1.DownloadContext) *contentservice.WorkspaceInitializer {
	out := &contentservice.FileDownloadInitializer{TargetLocation: d.GetTargetLocation()}
	for _, f := range d.GetFiles() {
		out.Files = append(out.Files, &contentservice.FileDownloadInitializer_FileInfo{Url: f.GetUrl(), FilePath: f.GetPath(), Digest: f.GetDigest()})
	}
	return &contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Download{Download: out}}
}

// clone returns an initializer that checks out a commit, with the credential if there is one. A
// one-time credential was redeemed when the build was accepted.
func clone(g *imagebuilderv1.GitContext, auth *imagebuilderv1.BasicAuth) *contentservice.WorkspaceInitializer {
	config := &contentservice.GitConfig{CustomConfig: g.GetConfig()}
	if auth.GetUsername() != "" || auth.GetPassword() != "" {
		config.Authentication = contentservice.GitAuthMethod_BASIC_AUTH
		config.AuthUser, config.AuthPassword = auth.GetUsername(), auth.GetPassword()
	}
	return &contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Git{Git: &contentservice.GitInitializer{
		RemoteUri: g.GetRemoteUri(), Upstream_RemoteUri: g.GetUpstreamRemoteUri(),
		TargetMode: contentservice.CloneTargetMode(g.GetTargetMode()), CloneTaget: g.GetCloneTarget(),
		CheckoutLocation: g.GetCheckoutLocation(), FullClone: g.GetFullClone(), Config: config,
	}}}
}
