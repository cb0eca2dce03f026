package api_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/builder"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_Force_NativeRequestsAreFresh checks that a forced native request does not join a build that
// has begun, and that a forced request of Gitpod's API, which has no request id, does.
func Test_Force_NativeRequestsAreFresh(t *testing.T) {
	a := newAPI(t)
	a.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	first, err := a.native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: refSource(ubuntu), Requester: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	a.Assign(first.Build.Id)
	forced, err := a.native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: refSource(ubuntu), Requester: "bob", Force: true})
	if err != nil || forced.Attached || forced.Build.Id == first.Build.Id {
		t.Errorf("a forced native request: %v, %v, want a build of its own", forced, err)
	}
	stream, err := a.gitpod.Build(t.Context(), &builder.BuildRequest{Source: gitpodRef(ubuntu), ForceRebuild: true, TriggeredBy: "carol"})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := stream.Recv(); err != nil || res.GetInfo().GetBuildId() != first.Build.Id {
		t.Errorf("a forced request of Gitpod: %v, %v, want build %s", res, err, first.Build.Id)
	}
}

// Test_Force_AnotherBuildWaits checks that a forced request which can neither join the build that
// waits for a stopped one nor wait itself gets an error after which clients repeat it.
func Test_Force_AnotherBuildWaits(t *testing.T) {
	a := newAPI(t)
	a.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	req := &imagebuilderv1.BuildImageRequest{Source: refSource(ubuntu), Requester: "alice"}
	first, err := a.native.BuildImage(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	epoch := a.Assign(first.Build.Id)
	a.Stop(first.Build.Id, buildsv1.StopReason_STOP_REASON_REQUESTER, "alice")
	a.Create(first.Build.Ref, func(c *buildsv1.CreateBuild) { c.Source = refSource("registry.example.com/another@sha256:1") })
	req.Force = true
	if res, err := a.native.BuildImage(t.Context(), req); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, %v, want UNAVAILABLE", res, err)
	}
	a.Finish(first.Build.Id, epoch, &buildsv1.FinishAttempt{Phase: builds.Cancelled})
	if res, err := a.native.BuildImage(t.Context(), req); err != nil || res.Attached {
		t.Errorf("after the end of the stopped build: %v, %v, want a build of its own", res, err)
	}
}
