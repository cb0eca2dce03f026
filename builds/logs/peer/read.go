package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// OpenLog opens a log where it is: here, on the owner of a live attempt, on any
// node that holds a copy of a complete one. Its contract is that of
// api.LogReader.
func (l *Logs) OpenLog(ctx context.Context, build string, attempt uint32, offset int64, follow bool) (logs.Stream, error) {
	key := logs.Key{Build: build, Attempt: attempt}
	a := l.attempt(key)
	if a == nil {
		return nil, builds.ErrNotFound
	}
	owner := &imagebuilderv1.LogCopy{Node: a.Owner, StoreId: a.OwnerStoreId}
	switch a.GetLog().GetState() {
	case builds.LogSealed:
		return l.openCopy(ctx, key, a, offset)
	case builds.LogSealing:
		return nil, fmt.Errorf("%w: the node that ran attempt %d is gone, and its log is being fixed", builds.ErrLogAway, attempt)
	}
	if l.isHere(owner) {
		return l.openLocal(key, offset)
	}
	if !follow { // as long as the owner says that the log is now
		return l.open(ctx, key, owner, offset)
	}
	dial := func(ctx context.Context, offset int64) (logs.Upstream, error) {
		stream, err := l.open(ctx, key, owner, offset)
		if err != nil {
			return nil, err
		}
		return stream, nil
	}
	rr, err := l.relays.Open(ctx, logs.RelayKey{Key: key, Epoch: a.Epoch}, offset, dial)
	if err != nil {
		return nil, err
	}
	return relayed{rr}, nil
}

// openCopy opens a complete log: here if a copy is here, else on the first node
// that answers.
func (l *Logs) openCopy(ctx context.Context, key logs.Key, a *imagebuilderv1.Attempt, offset int64) (logs.Stream, error) {
	var errs []error
	copies := builds.CopiesOf(a)
	if a.Log.Length == 0 {
		return emptyLog{}, nil
	}
	if builds.HasCopy(copies, l.o.Node, l.node.StoreID()) {
		stream, err := l.openLocal(key, offset)
		if err == nil {
			return stream, nil
		}
		errs = append(errs, err)
	}
	for _, c := range copies {
		if l.isHere(c) {
			continue
		}
		stream, err := l.open(ctx, key, c, offset)
		if err == nil {
			return stream, nil
		}
		errs = append(errs, err)
	}
	if !slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, builds.ErrLogDamaged) }) {
		return nil, errors.Join(errs...)
	}
	// Not wrapped: that one node has no copy does not mean that there is no log.
	return nil, fmt.Errorf("%w: %s", builds.ErrLogAway, errors.Join(errs...))
}

// open opens a log on another node.
func (l *Logs) open(ctx context.Context, key logs.Key, at *imagebuilderv1.LogCopy, offset int64) (*remoteLog, error) {
	conn, err := l.node.Conn(at.Node, at.StoreId)
	if err != nil {
		return nil, fmt.Errorf("%w (node %s): %w", builds.ErrLogAway, at.Node, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	stream, err := buildsv1.NewNodeLogsClient(conn).ReadLog(ctx, &buildsv1.ReadLogRequest{BuildId: key.Build, Attempt: key.Attempt, Offset: offset})
	if err != nil {
		cancel()
		return nil, logAway(at.Node, err)
	}
	first, err := stream.Recv()
	if err != nil {
		cancel()
		return nil, logAway(at.Node, err)
	}
	return &remoteLog{stream: stream, node: at.Node, length: first.GetLength(), cancel: cancel}, nil
}

// damagedHere tells the operator, and the reader.
func (l *Logs) damagedHere(key logs.Key, err error) error {
	l.o.Log.Error("this node's copy of a log is damaged", "build", key.Build, "attempt", key.Attempt, "err", err)
	return fmt.Errorf("%w (node %s): %w", builds.ErrLogDamaged, l.o.Node, err)
}

type localLog struct {
	*logs.Reader
	length   int64
	complete bool
}

func (l localLog) Length() int64 { return l.length }

// Next answers that the log is elsewhere once it was removed here, or is not
// written here any more, or turns out to be damaged when it was opened already:
// another copy of a complete log may be sound.
func (l localLog) Next(ctx context.Context) ([]byte, int64, error) {
	chunk, at, err := l.Reader.Next(ctx)
	if errors.Is(err, logs.ErrNotFound) || errors.Is(err, logs.ErrMoved) {
		err = builds.ErrLogAway
	}
	switch {
	case !errors.Is(err, logs.ErrDamaged):
	case l.complete:
		err = fmt.Errorf("%w: %w", builds.ErrLogAway, err)
	default:
		err = fmt.Errorf("%w: %w", builds.ErrLogDamaged, err)
	}
	return chunk, at, err
}

// emptyLog is a complete log of no bytes, for which no node has a file.
type emptyLog struct{}

func (emptyLog) Length() int64                               { return 0 }
func (emptyLog) Next(context.Context) ([]byte, int64, error) { return nil, 0, io.EOF }
func (emptyLog) Close() error                                { return nil }

// relayed is a log that readers on this node share. It is read to its end.
type relayed struct{ *logs.RelayReader }

func (relayed) Length() int64 { return 0 }

// logAway tells an absent log from a node that cannot be asked.
func logAway(node string, err error) error {
	switch status.Code(err) {
	case codes.NotFound:
		return builds.ErrNotFound
	case codes.DataLoss:
		return fmt.Errorf("%w (node %s): %s", builds.ErrLogDamaged, node, status.Convert(err).Message())
	case codes.Canceled:
		return context.Canceled
	case codes.DeadlineExceeded:
		return context.DeadlineExceeded
	}
	return fmt.Errorf("%w (node %s): %s", builds.ErrLogAway, node, status.Convert(err).Message())
}

// remoteLog is a log on another node.
type remoteLog struct {
	stream grpc.ServerStreamingClient[buildsv1.ReadLogResponse]
	node   string
	length int64
	cancel context.CancelFunc
}

func (l *remoteLog) Length() int64 { return l.length }

func (l *remoteLog) Next(context.Context) ([]byte, int64, error) {
	m, err := l.stream.Recv() // ends with the context that opened the stream
	if errors.Is(err, io.EOF) {
		return nil, 0, io.EOF
	}
	if err != nil {
		return nil, 0, logAway(l.node, err)
	}
	return m.GetContent(), m.GetOffset(), nil
}

func (l *remoteLog) Close() error { l.cancel(); return nil }
