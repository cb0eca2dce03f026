package api_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/proto/builder"
)

func Test_RegistryErrors_Codes(t *testing.T) {
	a := newAPI(t)
	for kind, want := range map[builds.ImageErrorKind]struct {
		code codes.Code
		user bool
	}{
		builds.ImageInvalid: {codes.InvalidArgument, false}, builds.ImageNotFound: {codes.NotFound, true},
		builds.ImageUnauthorized: {codes.Unauthenticated, true}, builds.ImageUnavailable: {codes.Unavailable, false},
	} {
		a.registry.fail[ubuntu] = &builds.ImageError{Kind: kind, Ref: ubuntu, Err: errors.New("it says no about " + ubuntu)}
		_, err := a.gitpod.ResolveBaseImage(t.Context(), &builder.ResolveBaseImageRequest{Ref: ubuntu})
		wantCode(t, err, want.code, ubuntu)
		if got := strings.Contains(status.Convert(err).Message(), "cannot resolve image"); got != want.user {
			t.Errorf("%s: blames the user %v, want %v", want.code, got, want.user)
		}
	}
}
