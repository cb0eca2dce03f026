package api_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func Test_RequestID_NeedsNoRegistry(t *testing.T) {
	a := newAPI(t)
	req := &imagebuilderv1.BuildImageRequest{RequestId: "q", Source: refSource(ubuntu), Requester: "alice"}
	first, err := a.native.BuildImage(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	a.registry.fail[ubuntu] = &builds.ImageError{Kind: builds.ImageUnavailable, Err: errors.New("down")}
	again, err := a.native.BuildImage(t.Context(), req)
	if err != nil || again.Build.Id != first.Build.Id || again.Attached {
		t.Errorf("got %v, %v, want build %s", again, err, first.Build.Id)
	}
	req.Force = true
	_, err = a.native.BuildImage(t.Context(), req)
	wantCode(t, err, codes.InvalidArgument, "request id")
}

// Test_RequestID_OfTheServiceIsSoonForgotten checks that ten minutes after a call without a request
// id only its build is left.
func Test_RequestID_OfTheServiceIsSoonForgotten(t *testing.T) {
	a := newAPI(t)
	a.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	records := func() uint64 {
		a.Must(&buildsv1.Reap{})
		h := new(buildsv1.SnapshotHeader)
		if err := protodelim.UnmarshalFrom(bytes.NewReader(buildstest.Dump(t, a.Store)), h); err != nil {
			t.Fatal(err)
		}
		return h.Records
	}
	before := records()
	if _, err := a.native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: refSource(ubuntu), Requester: "alice"}); err != nil {
		t.Fatal(err)
	}
	if n := records(); n != before+2 {
		t.Errorf("a build and its request id are %d records", n-before)
	}
	a.Now = a.Now.Add(10 * time.Minute)
	if n := records(); n != before+1 {
		t.Errorf("after 10 minutes they are %d records", n-before)
	}
}
