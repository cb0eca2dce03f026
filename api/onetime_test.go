package api_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/image-builder-ha/image-builder/api"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/proto/builder"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
)

// oneTimeURL answers once.
type oneTimeURL struct{ asked atomic.Int32 }

func (o *oneTimeURL) redeem(context.Context, string) (user, password string, err error) {
	if o.asked.Add(1) > 1 {
		return "", "", errors.New("it was used")
	}
	return "oauth", "token-of-the-user", nil
}

// privateRepo is a Dockerfile in a repository whose credential an URL answers
// once.
func privateRepo() *builder.BuildRequest {
	return &builder.BuildRequest{TriggeredBy: "user", Source: &builder.BuildSource{From: &builder.BuildSource_File{File: &builder.BuildSourceDockerfile{
		DockerfilePath: "Dockerfile", DockerfileVersion: "v1",
		Source: &contentservice.WorkspaceInitializer{Spec: &contentservice.WorkspaceInitializer_Git{Git: &contentservice.GitInitializer{
			RemoteUri: "https://git.example.com/private.git", CloneTaget: "0123456789012345678901234567890123456789", TargetMode: contentservice.CloneTargetMode_REMOTE_COMMIT,
			Config: &contentservice.GitConfig{
				CustomConfig:   map[string]string{"http.version": "HTTP/1.1"},
				Authentication: contentservice.GitAuthMethod_BASIC_AUTH_OTS, AuthOts: "https://gitpod.example.com/ots/secret",
			},
		}}},
	}}}}
}

// Test_OneTimeCredential is spent by the request that makes a build, and by no
// other.
func Test_OneTimeCredential(t *testing.T) {
	url := &oneTimeURL{}
	a := newAPIWith(t, func(o *api.ServiceOptions) { o.Dockerfiles, o.OneTime = true, url.redeem })
	ask := func(req *builder.BuildRequest) (*builder.BuildResponse, error) {
		t.Helper()
		stream, err := a.gitpod.Build(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return stream.Recv()
	}
	first, err := ask(privateRepo())
	if err != nil || first.Status != builder.BuildStatus_running || url.asked.Load() != 1 {
		t.Fatalf("%v, %v, asked %d times", first, err, url.asked.Load())
	}
	rec := a.Store.Build(first.Info.BuildId)
	git := rec.Build.Source.GetDockerfile().GetGit()
	if !git.Authenticated || git.Config["http.version"] != "HTTP/1.1" || rec.Secrets == nil {
		t.Errorf("the build has git context %v and sealed secrets %v", git, rec.Secrets != nil)
	}
	joined, err := ask(privateRepo())
	if err != nil || joined.Info.GetBuildId() != first.Info.BuildId || url.asked.Load() != 1 {
		t.Errorf("joining: %v, %v, asked %d times", joined, err, url.asked.Load())
	}
	a.shelf.mu.Lock()
	a.shelf.images[first.Ref] = "sha256:w"
	a.shelf.mu.Unlock()
	there, err := ask(privateRepo())
	if err != nil || there.Status != builder.BuildStatus_done_success || url.asked.Load() != 1 {
		t.Errorf("an image that exists: %v, %v, asked %d times", there, err, url.asked.Load())
	}
	other := privateRepo()
	other.Source.GetFile().DockerfileVersion = "v2"
	if _, err := ask(other); status.Code(err) != codes.Unauthenticated || url.asked.Load() != 2 {
		t.Errorf("a used URL: %v, asked %d times", err, url.asked.Load())
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
