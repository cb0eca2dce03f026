package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// logRouter opens logs where they are: here, or on the node that keeps them.
type logRouter struct{ s *server }

var _ builds.LogReader = logRouter{}

func (r logRouter) OpenLog(ctx context.Context, build string, attempt uint32, offset int64) (builds.LogStream, error) {
	a := r.attempt(build, attempt)
	if a == nil {
		return nil, builds.ErrNotFound
	}
	if a.Owner == r.s.cfg.Name && a.OwnerStoreId == r.s.node.StoreID() {
		return logsAdapter{r.s.logs}.OpenLog(ctx, build, attempt, offset)
	}
	conn, err := r.s.node.Conn(a.Owner, a.OwnerStoreId)
	if err != nil {
		return nil, fmt.Errorf("%w (node %s): %w", builds.ErrLogAway, a.Owner, err)
	}
	stream, err := buildsv1.NewNodeLogsClient(conn).ReadLog(ctx, &buildsv1.ReadLogRequest{BuildId: build, Attempt: attempt, Offset: offset})
	if err != nil {
		return nil, logAway(a.Owner, err)
	}
	first, err := stream.Recv()
	if err != nil {
		return nil, logAway(a.Owner, err)
	}
	return &remoteLog{stream: stream, owner: a.Owner, length: first.GetLength()}, nil
}

func (r logRouter) attempt(build string, attempt uint32) *imagebuilderv1.Attempt {
	b := r.s.store.Build(build).GetBuild()
	if attempt == 0 || int(attempt) > len(b.GetAttempts()) {
		return nil
	}
	return b.Attempts[attempt-1]
}

// logAway tells an absent log from a node that cannot be asked.
func logAway(owner string, err error) error {
	switch status.Code(err) {
	case codes.NotFound:
		return builds.ErrNotFound
	case codes.Canceled:
		return context.Canceled
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	}
	return fmt.Errorf("%w (node %s): %s", builds.ErrLogAway, owner, status.Convert(err).Message())
}

// remoteLog is a log on another node.
type remoteLog struct {
	stream grpc.ServerStreamingClient[buildsv1.ReadLogResponse]
	owner  string
	length int64
}

func (l *remoteLog) Length() int64 { return l.length }

func (l *remoteLog) Next(context.Context) ([]byte, int64, error) {
	m, err := l.stream.Recv() // ends with the context that opened the stream
	if errors.Is(err, io.EOF) {
		return nil, 0, io.EOF
	}
	if err != nil {
		return nil, 0, logAway(l.owner, err)
	}
	return m.GetContent(), m.GetOffset(), nil
}

// Close has nothing to do: the stream ends with its context.
func (l *remoteLog) Close() error { return nil }

// nodeLogs serves the logs of this node to others.
type nodeLogs struct {
	buildsv1.UnimplementedNodeLogsServer
	s *server
}

func (n nodeLogs) ReadLog(req *buildsv1.ReadLogRequest, stream grpc.ServerStreamingServer[buildsv1.ReadLogResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(n.s.streams, cancel)()
	l, err := logsAdapter{n.s.logs}.OpenLog(ctx, req.GetBuildId(), req.GetAttempt(), req.GetOffset())
	if errors.Is(err, builds.ErrNotFound) {
		return status.Error(codes.NotFound, "this node does not have the log")
	}
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	defer l.Close()
	if err := stream.Send(&buildsv1.ReadLogResponse{Length: l.Length()}); err != nil {
		return err
	}
	for {
		chunk, offset, err := l.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && n.s.streams.Err() != nil:
			return errMoving
		case err != nil:
			return status.FromContextError(err).Err()
		}
		if err := stream.Send(&buildsv1.ReadLogResponse{Offset: offset, Content: chunk}); err != nil {
			return err
		}
	}
}
