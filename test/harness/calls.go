package harness

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// RefSource returns a source by image reference for the native API.
func RefSource(ref string) *imagebuilderv1.Source {
	return &imagebuilderv1.Source{From: &imagebuilderv1.Source_Ref{Ref: &imagebuilderv1.RefSource{Ref: ref}}}
}

// GitpodRef returns a source by image reference for Gitpod's API.
func GitpodRef(ref string) *builder.BuildSource {
	return &builder.BuildSource{From: &builder.BuildSource_Ref{Ref: &builder.BuildSourceReference{Ref: ref}}}
}

// Persist calls f until the service is available or ctx ends. f must be safe to repeat.
func Persist[T any](ctx context.Context, f func(context.Context) (T, error)) (T, error) {
	for {
		v, err := f(ctx)
		switch status.Code(err) {
		case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
			if ctx.Err() != nil {
				return v, err
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		default:
			return v, err
		}
	}
}

// Wait waits for the end of a build, even if the node restarts meanwhile. If that fails it reports
// an error and returns nil.
func (n *Node) Wait(t testing.TB, ctx context.Context, id string) *imagebuilderv1.Build {
	t.Helper()
	res, err := Persist(ctx, func(ctx context.Context) (*imagebuilderv1.BuildStatusResponse, error) {
		return n.Native.BuildStatus(ctx, &imagebuilderv1.BuildStatusRequest{
			Build: &imagebuilderv1.BuildStatusRequest_Id{Id: id}, WaitFor: imagebuilderv1.Phase_PHASE_SUCCEEDED,
		})
	})
	if err != nil {
		t.Errorf("wait for build %s: %v", id, err)
		return nil
	}
	return res.Build
}

// BuildGitpod follows a build through Gitpod's API and returns all messages. It returns an error if
// a client of Gitpod would regard the stream as broken.
func (n *Node) BuildGitpod(ctx context.Context, req *builder.BuildRequest) ([]*builder.BuildResponse, error) {
	stream, err := n.Gitpod.Build(ctx, req)
	if err != nil {
		return nil, err
	}
	var all []*builder.BuildResponse
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if len(all) == 0 || all[len(all)-1].Status == builder.BuildStatus_running {
				return all, errors.New("stream ended before the build did")
			}
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, m)
	}
}

// ReadLog reads the log of one attempt, or of all attempts if attempt is 0, to its end.
func (n *Node) ReadLog(ctx context.Context, id string, attempt uint32) (string, error) {
	stream, err := n.Native.BuildLogs(ctx, &imagebuilderv1.BuildLogsRequest{
		Build: &imagebuilderv1.BuildLogsRequest_Id{Id: id}, Attempt: attempt, Follow: true,
	})
	if err != nil {
		return "", err
	}
	var out []byte
	var at int64
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return string(out), nil
		}
		if err != nil {
			return string(out), err
		}
		if !chunk.Marker && attempt > 0 && chunk.Offset != at {
			return string(out), fmt.Errorf("got a chunk at offset %d, want %d", chunk.Offset, at)
		}
		at = chunk.Offset + int64(len(chunk.Content))
		out = append(out, chunk.Content...)
	}
}

// CreateBuild requests a forced build of an image by reference, and returns its
// id.
func CreateBuild(t testing.TB, n *Node, ref string) string {
	t.Helper()
	res, err := n.Native.BuildImage(context.Background(), &imagebuilderv1.BuildImageRequest{
		RequestId: uuid.NewString(), Source: RefSource(ref), Force: true, Requester: "r",
	})
	if err != nil {
		t.Fatal(err)
	}
	return res.Build.Id
}
