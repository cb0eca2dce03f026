package api_test

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func Test_Cancel_ThroughTheAPI(t *testing.T) {
	a := newAPI(t)
	res, err := a.native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: refSource(ubuntu), Requester: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.native.CancelBuild(t.Context(), &imagebuilderv1.CancelBuildRequest{Id: res.Build.Id, Requester: "mallory"})
	wantCode(t, err, codes.PermissionDenied, "requester")
	out, err := a.native.CancelBuild(t.Context(), &imagebuilderv1.CancelBuildRequest{Id: res.Build.Id, Requester: "alice", Reason: "not needed"})
	if err != nil || out.Build.Phase != builds.Cancelled || !strings.Contains(out.Build.Message, "not needed") {
		t.Errorf("got %v, %v", out, err)
	}
	_, err = a.native.CancelBuild(t.Context(), &imagebuilderv1.CancelBuildRequest{Id: "none"})
	wantCode(t, err, codes.NotFound, "build not found")
	st, err := a.gitpod.Logs(t.Context(), &builder.LogsRequest{BuildRef: "none"})
	if err == nil {
		_, err = st.Recv()
	}
	wantCode(t, err, codes.NotFound, "build not found")
}
