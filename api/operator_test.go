package api_test

import (
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/image-builder-ha/image-builder/builds"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func Test_Operator_MethodsOnThePublicPort(t *testing.T) {
	a := newAPI(t)
	id := a.Create("r:1").Build.Id
	_, err := a.native.PutCachedRef(t.Context(), &imagebuilderv1.PutCachedRefRequest{Ref: ubuntu})
	wantCode(t, err, codes.PermissionDenied, "unix socket")
	_, err = a.native.DeleteCachedRef(t.Context(), &imagebuilderv1.DeleteCachedRefRequest{Ref: ubuntu})
	wantCode(t, err, codes.PermissionDenied, "unix socket")
	_, err = a.native.CancelBuild(t.Context(), &imagebuilderv1.CancelBuildRequest{Id: id, Operator: true})
	wantCode(t, err, codes.PermissionDenied, "unix socket")
	a.WantPhase(id, builds.Queued)
}
