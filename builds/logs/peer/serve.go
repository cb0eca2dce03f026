package peer

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Register registers the gRPC service that gives other nodes access to l. It is a function, so that
// a method value cannot bind logs that are not open yet.
func Register(r grpc.ServiceRegistrar, l *Logs) {
	if l == nil {
		panic("peer.Register: the logs are not open yet")
	}
	buildsv1.RegisterNodeLogsServer(r, service{l: l})
}

// service implements the calls between nodes.
type service struct {
	buildsv1.UnimplementedNodeLogsServer
	l *Logs
}

// AppendLogs appends to copies on this node. It refuses the appends of a former owner.
func (s service) AppendLogs(ctx context.Context, req *buildsv1.AppendLogsRequest) (*buildsv1.AppendLogsResponse, error) {
	res := &buildsv1.AppendLogsResponse{}
	var batch []logs.Append
	var index []int // of each append of batch in the request
	for i, a := range req.GetAppends() {
		res.Acks = append(res.Acks, &buildsv1.LogAck{})
		if s.isOutdated(a) {
			res.Acks[i].Refusal = buildsv1.LogRefusal_LOG_REFUSAL_FENCED
			continue
		}
		batch, index = append(batch, appendFromProto(a)), append(index, i)
	}
	for i, ack := range s.l.store.Append(ctx, batch) {
		m := ackToProto(ack)
		res.Acks[index[i]] = m
		if m.Refusal == buildsv1.LogRefusal_LOG_REFUSAL_FAILED {
			s.l.opts.Log.Warn("cannot store a copy of a log", "build", batch[i].Key.Build, "attempt", batch[i].Key.Attempt, "err", ack.Refusal)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	return res, nil
}

// isOutdated reports whether the local state knows a newer owner than the sender of an append.
func (s service) isOutdated(a *buildsv1.LogAppend) bool {
	at := s.l.attempt(logs.Key{Build: a.GetBuildId(), Attempt: a.GetAttempt()})
	return at != nil && at.Epoch > a.GetEpoch()
}

// ReadLog streams a log on this node.
func (s service) ReadLog(req *buildsv1.ReadLogRequest, stream grpc.ServerStreamingServer[buildsv1.ReadLogResponse]) error {
	stopping := s.l.opts.Stopping
	ctx, cancel := ctxutil.Join(stream.Context(), stopping)
	defer cancel()
	log, err := s.l.openLocal(ctx, logs.Key{Build: req.GetBuildId(), Attempt: req.GetAttempt()}, req.GetOffset())
	switch {
	case errors.Is(err, builds.ErrNotFound):
		return errNotHere
	case errors.Is(err, builds.ErrLogDamaged):
		return status.Error(codes.DataLoss, err.Error())
	case err != nil:
		return status.Error(codes.Unavailable, err.Error())
	}
	defer log.Close()
	if err := stream.Send(&buildsv1.ReadLogResponse{Length: log.Length()}); err != nil {
		return err
	}
	for {
		chunk, offset, err := log.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && stopping.Err() != nil:
			return errStopping
		case errors.Is(err, builds.ErrLogAway):
			return status.Error(codes.Unavailable, "the log is not on this node any more")
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

// Errors that readers on other nodes receive.
var (
	errNotHere  = status.Error(codes.NotFound, "this node does not have the log")
	errStopping = status.Error(codes.Unavailable, "the node shuts down: open the log again, it continues on another node")
)
