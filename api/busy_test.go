package api_test

import (
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Test_Busy_SaysWhenToComeBack fills the queue of a requester and the queue of all.
func Test_Busy_SaysWhenToComeBack(t *testing.T) {
	for title, set := range map[string]*buildsv1.Settings{
		"of a requester": {QueuePerRequester: 1}, "of all": {QueueTotal: 1},
	} {
		t.Run(title, func(t *testing.T) {
			a := newAPI(t)
			a.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
			a.Must(&buildsv1.PutSettings{Settings: set})
			build := func(ref string) error {
				a.registry.images[ref] = "sha256:x"
				_, err := a.native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{
					Requester: "alice", Source: &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: ref}}},
				})
				return err
			}
			if err := build("docker.io/library/ubuntu:22.04"); err != nil {
				t.Fatal(err)
			}
			err := build("docker.io/library/debian:12")
			wantCode(t, err, codes.ResourceExhausted, "try again in 10s")
			var info *errdetails.RetryInfo
			for _, d := range status.Convert(err).Details() {
				if d, ok := d.(*errdetails.RetryInfo); ok {
					info = d
				}
			}
			if got := info.GetRetryDelay().AsDuration(); got != 10*time.Second {
				t.Errorf("the delay is %s", got)
			}
		})
	}
}
