package node

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// snapshotStream is a stream that ends with its context.
type snapshotStream struct {
	grpc.ServerStreamingServer[imagebuilderv1.SaveSnapshotResponse]
	ctx context.Context
}

func (s snapshotStream) Context() context.Context { return s.ctx }

// Test_Operator_WithoutLeader checks that calls that need a leader return UNAVAILABLE without one,
// so that clients ask the next node.
func Test_Operator_WithoutLeader(t *testing.T) {
	n := lone(t, t.TempDir()) // not opened, so it does not lead
	cmd, err := builds.NewCommand(&buildsv1.SetFeatureLevel{Level: builds.FeatureLevel})
	if err != nil {
		t.Fatal(err)
	}
	if res, ok := n.store.Apply(1, cmd).(builds.Result); !ok || res.Err != nil {
		t.Fatal(res.Err)
	}
	api := clusterAPI{node: n}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	for name, call := range map[string]func() error{
		"DrainNode": func() error {
			_, err := api.DrainNode(ctx, &imagebuilderv1.DrainNodeRequest{Node: "n0"})
			return err
		},
		"RemoveNode": func() error {
			_, err := api.RemoveNode(ctx, &imagebuilderv1.RemoveNodeRequest{Node: "n0"})
			return err
		},
		"SaveSnapshot": func() error {
			return api.SaveSnapshot(nil, snapshotStream{ctx: ctx})
		},
	} {
		if err := call(); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Test_Operator_Refusals checks that only refusals of a leader are FAILED_PRECONDITION.
func Test_Operator_Refusals(t *testing.T) {
	n := lone(t, t.TempDir())
	n.openAlone(t)
	for _, node := range []string{"n0", "nobody"} {
		if _, err := (clusterAPI{node: n}).RemoveNode(t.Context(), &imagebuilderv1.RemoveNodeRequest{Node: node}); status.Code(err) != codes.FailedPrecondition {
			t.Errorf("remove %s: %v", node, err)
		}
	}
	for err, want := range map[error]codes.Code{
		cluster.ErrNoLeader: codes.Unavailable, cluster.ErrClosed: codes.Unavailable, errors.New("it leads"): codes.FailedPrecondition,
	} {
		if err = operatorError(fmt.Errorf("not removed: %w", err)); status.Code(err) != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
