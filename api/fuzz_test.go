package api_test

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Fuzz_Requests sends requests with any content to both APIs. No response has a code on which a
// client cannot act.
func Fuzz_Requests(f *testing.F) {
	native, gitpod := gitSource("https://example.com/a.git", "main", "Dockerfile", "1", ".")
	for _, m := range []proto.Message{
		&imagebuilderv1.BuildImageRequest{Source: native, RequestId: "1", Requester: "r"},
		&imagebuilderv1.BuildImageRequest{Source: refSource(ubuntu), Force: true},
		&builder.BuildRequest{Source: gitpod}, &builder.BuildRequest{Source: gitpodRef(ubuntu), ForceRebuild: true},
	} {
		raw, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		a := newAPI(t)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		check := func(call string, err error) {
			switch status.Code(err) {
			case codes.Internal, codes.Unknown, codes.DeadlineExceeded, codes.DataLoss:
				t.Errorf("%s: %v", call, err)
			}
		}
		n, g := new(imagebuilderv1.BuildImageRequest), new(builder.BuildRequest)
		if proto.Unmarshal(raw, n) == nil {
			_, err := a.native.BuildImage(ctx, n)
			check("BuildImage", err)
			_, err = a.native.ResolveWorkspaceImage(ctx, &imagebuilderv1.ResolveWorkspaceImageRequest{Source: n.Source})
			check("ResolveWorkspaceImage", err)
		}
		if proto.Unmarshal(raw, g) == nil {
			stream, err := a.gitpod.Build(ctx, g)
			if err == nil {
				_, err = stream.Recv()
			}
			check("Build of Gitpod's API", err)
		}
	})
}
