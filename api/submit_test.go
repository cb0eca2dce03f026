package api_test

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/image-builder-ha/image-builder/api"
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

// behindRaft is the log of a node that has applied nothing until it requests a read index from the
// leader.
type behindRaft struct {
	*localRaft
	current atomic.Bool
}

func (b *behindRaft) Freshness() (uint64, bool, time.Duration) {
	index, known, stale := b.localRaft.Freshness()
	if !b.current.Load() {
		index = 0
	}
	return index, known, stale
}

func (b *behindRaft) ReadIndex(ctx context.Context) (uint64, error) {
	b.current.Store(true)
	return b.localRaft.ReadIndex(ctx)
}

// Test_Submit_OnANodeThatIsBehind: the node looks for the image again, and creates a build because
// the image of the former build is gone.
func Test_Submit_OnANodeThatIsBehind(t *testing.T) {
	behind := new(behindRaft)
	a := newAPIWith(t, func(o *api.ServiceOptions) {
		behind.localRaft = o.Raft.(*localRaft)
		o.Raft = behind
	})
	a.Must(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	ask := func() *imagebuilderv1.BuildImageResponse {
		t.Helper()
		res, err := a.native.BuildImage(t.Context(), &imagebuilderv1.BuildImageRequest{Source: refSource(ubuntu)})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	first := ask()
	a.Succeed(first.Build.Id)
	if again := ask(); !again.Attached || again.Build.Id != first.Build.Id || behind.current.Load() {
		t.Errorf("after a build that has just ended: %v, asked the leader: %v", again, behind.current.Load())
	}
	a.Now = a.Now.Add(time.Hour)
	if again := ask(); again.Attached || again.Build.Id == first.Build.Id || !behind.current.Load() {
		t.Errorf("an hour later: %v, asked the leader: %v", again, behind.current.Load())
	}
}
