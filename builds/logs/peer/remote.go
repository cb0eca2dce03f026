package peer

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// remoteLog is a stream of a log on another node.
type remoteLog struct {
	stream grpc.ServerStreamingClient[buildsv1.ReadLogResponse]
	node   string
	length int64
	cancel context.CancelFunc
}

// dialRemote opens a log over a connection to the node that has it. ctx limits the whole stream.
func dialRemote(ctx context.Context, conn grpc.ClientConnInterface, node string, key logs.Key, offset int64) (*remoteLog, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := buildsv1.NewNodeLogsClient(conn).ReadLog(ctx, &buildsv1.ReadLogRequest{BuildId: key.Build, Attempt: key.Attempt, Offset: offset})
	if err != nil {
		cancel()
		return nil, remoteError(node, err)
	}
	first, err := stream.Recv()
	if err != nil {
		cancel()
		return nil, remoteError(node, err)
	}
	return &remoteLog{stream: stream, node: node, length: first.GetLength(), cancel: cancel}, nil
}

// Length implements logs.Stream.
func (l *remoteLog) Length() int64 { return l.length }

// Next implements logs.Stream. It ignores its context: the stream ends with the context that
// opened it.
func (l *remoteLog) Next(context.Context) ([]byte, int64, error) {
	m, err := l.stream.Recv()
	if errors.Is(err, io.EOF) {
		return nil, 0, io.EOF
	}
	if err != nil {
		return nil, 0, remoteError(l.node, err)
	}
	return m.GetContent(), m.GetOffset(), nil
}

// Close implements logs.Stream.
func (l *remoteLog) Close() error { l.cancel(); return nil }

// remoteError converts a status of another node. It returns ErrNotFound if the node does not have
// the log, ErrLogDamaged if its copy is damaged or missing, and ErrLogAway if the node cannot be
// reached.
func remoteError(node string, err error) error {
	switch status.Code(err) {
	case codes.NotFound:
		return builds.ErrNotFound
	case codes.DataLoss:
		return damagedOn(node, errors.New(status.Convert(err).Message()))
	case codes.Canceled:
		return context.Canceled
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	}
	return fmt.Errorf("%w (node %s): %s", builds.ErrLogAway, node, status.Convert(err).Message())
}
