package api_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/proto/contentservice"
)

// oneTimeURL returns its credential once.
type oneTimeURL struct{ calls atomic.Int32 }

func (o *oneTimeURL) redeem(context.Context, string) (user, password string, err error) {
	if o.calls.Add(1) > 1 {
		return "", "", errors.New("it was used")
	}
	return "oauth", "token-of-the-user", nil
}

// privateRepo returns a request for a Dockerfile in a repository with a one-time credential.
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

// Test_OneTimeCredential checks that only a request that creates a build uses its one-time
// credential.
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
	if err != nil || first.Status != builder.BuildStatus_running || url.calls.Load() != 1 {
		t.Fatalf("%v, %v, fetched %d times", first, err, url.calls.Load())
	}
	rec := a.Store.Build(first.Info.BuildId)
	git := rec.Build.Source.GetDockerfile().GetGit()
	if !git.Authenticated || git.Config["http.version"] != "HTTP/1.1" || rec.Secrets == nil {
		t.Errorf("the build has git context %v and sealed secrets %v", git, rec.Secrets != nil)
	}
	joined, err := ask(privateRepo())
	if err != nil || joined.Info.GetBuildId() != first.Info.BuildId || url.calls.Load() != 1 {
		t.Errorf("joining: %v, %v, fetched %d times", joined, err, url.calls.Load())
	}
	epoch := a.Assign(first.Info.BuildId)
	a.Stop(first.Info.BuildId, buildsv1.StopReason_STOP_REASON_OPERATOR, "")
	next := a.Create(first.Ref)
	waits, err := ask(privateRepo())
	if err != nil || waits.Info.GetBuildId() != next.Build.Id || url.calls.Load() != 1 {
		t.Errorf("joining a build that waits: %v, %v, fetched %d times", waits, err, url.calls.Load())
	}
	a.Finish(first.Info.BuildId, epoch, &buildsv1.FinishAttempt{Phase: builds.Cancelled})
	a.registry.mu.Lock()
	a.registry.images[first.Ref] = "sha256:w"
	a.registry.mu.Unlock()
	there, err := ask(privateRepo())
	if err != nil || there.Status != builder.BuildStatus_done_success || url.calls.Load() != 1 {
		t.Errorf("an image that exists: %v, %v, fetched %d times", there, err, url.calls.Load())
	}
	other := privateRepo()
	other.Source.GetFile().DockerfileVersion = "v2"
	if _, err := ask(other); status.Code(err) != codes.Unauthenticated || url.calls.Load() != 2 {
		t.Errorf("a used URL: %v, fetched %d times", err, url.calls.Load())
	}
}

// Test_OneTimeCredential_JoinIsRecorded: a request that joins a build without its one-time credential is
// one of the requesters of the build, so that the first one cannot cancel the build alone. Below the
// feature level nothing is recorded.
func Test_OneTimeCredential_JoinIsRecorded(t *testing.T) {
	for level, want := range map[uint32][]string{builds.JoinLevel - 1: {"user"}, builds.JoinLevel: {"user", "other"}} {
		url := &oneTimeURL{}
		a := newAPIWith(t, func(o *api.ServiceOptions) { o.Dockerfiles, o.OneTime = true, url.redeem })
		a.Must(&buildsv1.SetFeatureLevel{Level: level})
		var id string
		for _, requester := range []string{"user", "other", "other"} {
			req := privateRepo()
			req.TriggeredBy = requester
			stream, err := a.gitpod.Build(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			res, err := stream.Recv()
			if err != nil || id != "" && res.Info.GetBuildId() != id {
				t.Fatalf("level %d: %s gets %v, %v", level, requester, res, err)
			}
			id = res.Info.GetBuildId()
		}
		if got := a.Build(id).Requesters; !slices.Equal(got, want) || url.calls.Load() != 1 {
			t.Errorf("level %d: the requesters are %v, want %v; the credential was fetched %d times", level, got, want, url.calls.Load())
		}
	}
}

// Test_OneTimeCredential_QueueIsFull: a request that is refused because a queue is full does not use
// its one-time credential. Repeated later, it creates a build with it.
func Test_OneTimeCredential_QueueIsFull(t *testing.T) {
	for title, set := range map[string]*buildsv1.Settings{
		"of a requester": {QueuePerRequester: 1}, "of all": {QueueTotal: 1},
	} {
		t.Run(title, func(t *testing.T) {
			url := &oneTimeURL{}
			a := newAPIWith(t, func(o *api.ServiceOptions) { o.Dockerfiles, o.OneTime = true, url.redeem })
			a.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
			a.Must(&buildsv1.PutSettings{Settings: set})
			waits := a.Create("other:1", buildstest.By("user")).Build.Id
			ask := func() error {
				stream, err := a.gitpod.Build(t.Context(), privateRepo())
				if err == nil {
					_, err = stream.Recv()
				}
				return err
			}
			if err := ask(); status.Code(err) != codes.ResourceExhausted || url.calls.Load() != 0 {
				t.Errorf("with a full queue: %v, fetched %d times", err, url.calls.Load())
			}
			a.Succeed(waits)
			if err := ask(); err != nil || url.calls.Load() != 1 {
				t.Errorf("with room in the queue: %v, fetched %d times", err, url.calls.Load())
			}
		})
	}
}
