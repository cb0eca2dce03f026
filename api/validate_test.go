package api_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func Test_BadInput(t *testing.T) {
	a := newAPI(t)
	big := strings.Repeat("x", 1<<20)
	dockerfile := func(change func(*imagebuilderv1.DockerfileSource)) *imagebuilderv1.Source {
		n, _ := gitSource("https://example.com/a.git", "main", "Dockerfile", "1", ".")
		change(n.GetDockerfile())
		return n
	}
	for name, req := range map[string]*imagebuilderv1.BuildImageRequest{
		"empty":             {},
		"source":            {Source: &imagebuilderv1.Source{}},
		"ref without value": {Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{}}},
		"empty ref":         {Source: refSource("")},
		"long ref":          {Source: refSource(big)},
		"newline":           {Source: refSource("ubuntu\n")},
		"NUL":               {Source: refSource("ubuntu\x00")},
		"dockerfile":        {Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{}}},
		"no context":        {Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Dockerfile{Dockerfile: &imagebuilderv1.DockerfileSource{}}}},
		"dotdot":            {Source: dockerfile(func(d *imagebuilderv1.DockerfileSource) { d.DockerfilePath = "a/../../etc/passwd" })},
		"absolute":          {Source: dockerfile(func(d *imagebuilderv1.DockerfileSource) { d.ContextPath = "/etc" })},
		"option as target":  {Source: dockerfile(func(d *imagebuilderv1.DockerfileSource) { d.GetGit().CloneTarget = "--upload-pack=x" })},
		"file URI":          {Source: dockerfile(func(d *imagebuilderv1.DockerfileSource) { d.GetGit().RemoteUri = "file:///etc" })},
		"secret in URI": {Source: dockerfile(func(d *imagebuilderv1.DockerfileSource) {
			d.GetGit().RemoteUri = "https://u:hunter2-secret@example.com/a.git"
		})},
		"token in URI": {Source: dockerfile(func(d *imagebuilderv1.DockerfileSource) {
			d.GetGit().RemoteUri = "https://hunter2-secret@example.com/a.git"
		})},
		"requester":     {Source: refSource(ubuntu), Requester: big},
		"request id":    {Source: refSource(ubuntu), RequestId: "a\x00b"},
		"labels":        {Source: refSource(ubuntu), Labels: map[string]string{"": "x"}},
		"timeout":       {Source: refSource(ubuntu), Timeout: durationpb.New(-time.Second)},
		"long timeout":  {Source: refSource(ubuntu), Timeout: durationpb.New(100 * time.Hour)},
		"resolved base": {Source: refSource(ubuntu), BaseImageNameResolved: "a\nb"},
	} {
		_, err := a.native.BuildImage(t.Context(), req)
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: got %v, want INVALID_ARGUMENT", name, err)
		}
		if err != nil && (strings.Contains(err.Error(), "hunter2") || len(err.Error()) > 1000) {
			t.Errorf("%s: the error shows the input: %.200s", name, err)
		}
	}
	if n := a.Counts().Builds; n != 0 {
		t.Errorf("bad input left %d builds", n)
	}
}

func Test_BadInput_Gitpod(t *testing.T) {
	a := newAPI(t)
	file := func(w *contentservice.WorkspaceInitializer) *builder.BuildSource {
		return &builder.BuildSource{From: &builder.BuildSource_File{File: &builder.BuildSourceDockerfile{Source: w}}}
	}
	for name, src := range map[string]*builder.BuildSource{
		"nil": nil, "empty": {}, "nil ref": {From: &builder.BuildSource_Ref{}}, "nil file": {From: &builder.BuildSource_File{}},
		"no initializer": file(nil), "empty spec": file(&contentservice.WorkspaceInitializer{}),
		"nil git":   file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Git{}}),
		"empty git": file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Git{Git: &contentservice.GitInitializer{}}}),
		"snapshot":  file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Snapshot{}}),
		"prebuild":  file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Prebuild{}}),
		"composite": file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Composite{}}),
		"download":  file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Download{}}),
		"backup":    file(&contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Backup{}}),
	} {
		_, err := a.gitpod.ResolveWorkspaceImage(t.Context(), &builder.ResolveWorkspaceImageRequest{Source: src})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: resolve: got %v, want INVALID_ARGUMENT", name, err)
		}
		stream, err := a.gitpod.Build(t.Context(), &builder.BuildRequest{Source: src})
		if err != nil {
			t.Fatal(err)
		}
		if _, err = stream.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: build: got %v, want INVALID_ARGUMENT", name, err)
		}
	}
}

func Test_GitConfig_IsBounded(t *testing.T) {
	a := newAPIWith(t, func(o *api.ServiceOptions) { o.Dockerfiles = true })
	for name, config := range map[string]map[string]string{
		"a name with a line break":  {"a.b\nc": "1"},
		"a value with a line break": {"a.b": "1\n[core]"},
		"no name":                   {"": "1"},
		"a name with =":             {"a=b": "1"},
	} {
		req := privateRepo()
		req.Source.GetFile().Source.GetGit().Config = &contentservice.GitConfig{CustomConfig: config}
		stream, err := a.gitpod.Build(t.Context(), req)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}
