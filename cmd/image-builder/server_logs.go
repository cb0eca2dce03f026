package main

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

// logRouter opens logs where they are: here, on the owner of a live attempt,
// on any node that holds a copy of a complete one.
type logRouter struct{ s *server }

var _ builds.LogReader = logRouter{}

func (r logRouter) OpenLog(ctx context.Context, build string, attempt uint32, offset int64, follow bool) (builds.LogStream, error) {
	a := attemptOf(r.s.store, build, attempt)
	if a == nil {
		return nil, builds.ErrNotFound
	}
	key := logs.Key{Build: build, Attempt: attempt}
	owner := &imagebuilderv1.LogCopy{Node: a.Owner, StoreId: a.OwnerStoreId}
	switch a.GetLog().GetState() {
	case builds.LogSealed:
		return r.openCopy(ctx, key, a, offset)
	case builds.LogSealing:
		return nil, fmt.Errorf("%w: the node that ran attempt %d is gone, and its log is being fixed", builds.ErrLogAway, attempt)
	}
	if r.isHere(owner) {
		return r.s.openLocal(key, offset)
	}
	if !follow { // as long as the owner says that the log is now
		return r.open(ctx, key, owner, offset)
	}
	dial := func(ctx context.Context, offset int64) (logs.Upstream, error) {
		l, err := r.open(ctx, key, owner, offset)
		if err != nil {
			return nil, err
		}
		return l, nil
	}
	rr, err := r.s.relays.Open(ctx, logs.RelayKey{Key: key, Epoch: a.Epoch}, offset, dial)
	if err != nil {
		return nil, err
	}
	return relayed{rr}, nil
}

func (r logRouter) isHere(c *imagebuilderv1.LogCopy) bool {
	return c.Node == r.s.cfg.Name && c.StoreId == r.s.node.StoreID()
}

// openCopy opens a complete log: here if a copy is here, else on the first node
// that answers.
func (r logRouter) openCopy(ctx context.Context, key logs.Key, a *imagebuilderv1.Attempt, offset int64) (builds.LogStream, error) {
	var errs []error
	copies := builds.CopiesOf(a)
	if a.Log.Length == 0 {
		return emptyLog{}, nil
	}
	if builds.HasCopy(copies, r.s.cfg.Name, r.s.node.StoreID()) {
		l, err := r.s.openLocal(key, offset)
		if err == nil {
			return l, nil
		}
		errs = append(errs, err)
	}
	for _, c := range copies {
		if r.isHere(c) {
			continue
		}
		l, err := r.open(ctx, key, c, offset)
		if err == nil {
			return l, nil
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
func (r logRouter) open(ctx context.Context, key logs.Key, at *imagebuilderv1.LogCopy, offset int64) (*remoteLog, error) {
	conn, err := r.s.node.Conn(at.Node, at.StoreId)
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

// openLocal opens this node's copy, completed if the state says so.
func (s *server) openLocal(key logs.Key, offset int64) (builds.LogStream, error) {
	if a := attemptOf(s.store, key.Build, key.Attempt); a.GetLog().GetState() == builds.LogSealed {
		if err := s.logs.Complete(key, a.Log.Length); errors.Is(err, logs.ErrDamaged) {
			return nil, s.damagedHere(key, err)
		} else if err != nil {
			return nil, fmt.Errorf("%w (node %s): %w", builds.ErrLogAway, s.cfg.Name, err)
		}
	}
	length, _, err := s.logs.Length(key)
	if err == nil {
		var r *logs.Reader
		if r, err = s.logs.LiveReader(key, offset); err == nil {
			return localLog{r, length}, nil
		}
	}
	switch {
	case errors.Is(err, logs.ErrNotFound):
		return nil, builds.ErrNotFound
	case errors.Is(err, logs.ErrDamaged):
		return nil, s.damagedHere(key, err)
	}
	return nil, err
}

// damagedHere tells the operator, and the reader.
func (s *server) damagedHere(key logs.Key, err error) error {
	s.log.Error("this node's copy of a log is damaged", "build", key.Build, "attempt", key.Attempt, "err", err)
	return fmt.Errorf("%w (node %s): %w", builds.ErrLogDamaged, s.cfg.Name, err)
}

type localLog struct {
	*logs.Reader
	length int64
}

func (l localLog) Length() int64 { return l.length }

// Next answers that the log is elsewhere once it was removed here, or is not
// written here any more.
func (l localLog) Next(ctx context.Context) ([]byte, int64, error) {
	chunk, at, err := l.Reader.Next(ctx)
	if errors.Is(err, logs.ErrNotFound) || errors.Is(err, logs.ErrMoved) {
		err = builds.ErrLogAway
	}
	if errors.Is(err, logs.ErrDamaged) {
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

// ReadLog streams a log that is here.
func (n nodeLogs) ReadLog(req *buildsv1.ReadLogRequest, stream grpc.ServerStreamingServer[buildsv1.ReadLogResponse]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(n.s.streams, cancel)()
	l, err := n.s.openLocal(logs.Key{Build: req.GetBuildId(), Attempt: req.GetAttempt()}, req.GetOffset())
	if errors.Is(err, builds.ErrNotFound) {
		return errNotHere
	}
	if errors.Is(err, builds.ErrLogDamaged) {
		return status.Error(codes.DataLoss, err.Error())
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
		case errors.Is(err, builds.ErrLogAway):
			return status.Error(codes.Unavailable, "the log is not kept here any more")
		case errors.Is(err, builds.ErrLogDamaged):
			return status.Error(codes.DataLoss, err.Error())
		case err != nil:
			return status.FromContextError(err).Err()
		}
		if err := stream.Send(&buildsv1.ReadLogResponse{Offset: offset, Content: chunk}); err != nil {
			return err
		}
	}
}
