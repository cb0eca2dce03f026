package api_test

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/buildstest"
	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func Test_Gitpod_BuildStream(t *testing.T) {
	a := newAPI(t)
	stream, err := a.gitpod.Build(t.Context(), &builder.BuildRequest{Source: gitpodRef(ubuntu), TriggeredBy: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	first, err := stream.Recv()
	if err != nil || first.Status != builder.BuildStatus_running || first.Ref == "" || first.BaseRef == "" || first.Info.GetBuildId() == "" {
		t.Fatalf("first message: %v, %v", first, err)
	}
	a.raft.mu.Lock()
	a.Succeed(first.Info.BuildId)
	a.raft.mu.Unlock()
	last, err := stream.Recv()
	if err != nil || last.Status != builder.BuildStatus_done_success || last.Info.Status != last.Status {
		t.Fatalf("last message: %v, %v", last, err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v, want OK", err)
	}
	a.registry.images[first.Ref] = "sha256:d"
	stream, err = a.gitpod.Build(t.Context(), &builder.BuildRequest{Source: gitpodRef(ubuntu)})
	if err != nil {
		t.Fatal(err)
	}
	if only, err := stream.Recv(); err != nil || only.Status != builder.BuildStatus_done_success || only.Info != nil {
		t.Errorf("existing image: %v, %v, want one message without info", only, err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("existing image: %v after the message, want the end", err)
	}
}

func Test_Gitpod_Blame(t *testing.T) {
	a := newAPI(t)
	for _, c := range []struct {
		blame   imagebuilderv1.Blame
		message string
		want    string
		user    bool
	}{
		{builds.BlameUser, "step 3 failed", "build failed: step 3 failed", true},
		{builds.BlameUser, "build failed: step 3", "build failed: step 3", true},
		{builds.BlameUser, "base image does not exist: x", "base image does not exist", true},
		{builds.BlameQuota, "cannot resolve image x; headless task failed: y", "the build did not succeed", false},
	} {
		stream, err := a.gitpod.Build(t.Context(), &builder.BuildRequest{Source: gitpodRef(ubuntu)})
		if err != nil {
			t.Fatal(err)
		}
		first, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		a.raft.mu.Lock()
		id := first.Info.BuildId
		a.Finish(id, a.Assign(id), buildstest.Failed(c.blame, c.message))
		a.raft.mu.Unlock()
		last, err := stream.Recv()
		if err != nil || last.Status != builder.BuildStatus_done_failure || !strings.HasPrefix(last.Message, c.want) {
			t.Errorf("%s %q: got %v, %v", c.blame, c.message, last, err)
		}
		if !c.user && (strings.Contains(last.Message, "cannot resolve image") || strings.Contains(last.Message, "headless task failed:")) {
			t.Errorf("a fault of the install is worded as the user's: %q", last.Message)
		}
	}
}
