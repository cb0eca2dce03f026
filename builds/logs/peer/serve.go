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

// Register serves the logs of this node to others.
func (l *Logs) Register(r grpc.ServiceRegistrar) {
	buildsv1.RegisterNodeLogsServer(r, service{l: l})
}

type service struct {
	buildsv1.UnimplementedNodeLogsServer
	l *Logs
}

// AppendLogs appends to copies that are here.
func (s service) AppendLogs(ctx context.Context, req *buildsv1.AppendLogsRequest) (*buildsv1.AppendLogsResponse, error) {
	res := &buildsv1.AppendLogsResponse{}
	var batch []logs.Append
	var at []int
	for i, a := range req.GetAppends() {
		res.Acks = append(res.Acks, &buildsv1.LogAck{})
		if s.outdated(a) {
			res.Acks[i].Refusal = buildsv1.LogRefusal_LOG_REFUSAL_FENCED
			continue
		}
		batch, at = append(batch, logs.Append{
			Key: logs.Key{Build: a.BuildId, Attempt: a.Attempt}, Epoch: a.Epoch, Offset: a.Offset, Records: a.Records,
			Cut: a.Cut, Reset: a.Reset_, Visible: a.Visible,
		}), append(at, i)
	}
	for i, ack := range s.l.store.Append(ctx, batch) {
		out := res.Acks[at[i]]
		out.Length = ack.Length
		switch {
		case errors.Is(ack.Refusal, logs.ErrFenced):
			out.Refusal = buildsv1.LogRefusal_LOG_REFUSAL_FENCED
		case ack.Refusal != nil:
			out.Refusal, out.Message = buildsv1.LogRefusal_LOG_REFUSAL_FAILED, ack.Refusal.Error()
			s.l.o.Log.Warn("cannot take a copy of a log", "build", batch[i].Key.Build, "attempt", batch[i].Key.Attempt, "err", ack.Refusal)
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	return res, nil
}

// outdated reports whether the state knows a newer owner than the caller.
func (s service) outdated(a *buildsv1.LogAppend) bool {
	at := s.l.attempt(logs.Key{Build: a.GetBuildId(), Attempt: a.GetAttempt()})
	return at != nil && at.Epoch > a.GetEpoch()
}

// ReadLog streams a log that is here.
func (s service) ReadLog(req *buildsv1.ReadLogRequest, stream grpc.ServerStreamingServer[buildsv1.ReadLogResponse]) error {
	ctx, cancel := ctxutil.Join(stream.Context(), s.l.o.Stopping)
	defer cancel()
	log, err := s.l.openLocal(logs.Key{Build: req.GetBuildId(), Attempt: req.GetAttempt()}, req.GetOffset())
	if errors.Is(err, builds.ErrNotFound) {
		return errNotHere
	}
	if errors.Is(err, builds.ErrLogDamaged) {
		return status.Error(codes.DataLoss, err.Error())
	}
	if err != nil {
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
		case err != nil && s.l.o.Stopping.Err() != nil:
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

// What readers on other nodes are told.
var (
	errNotHere = status.Error(codes.NotFound, "this node does not have the log")
	errMoving  = status.Error(codes.Unavailable, "the node shuts down; ask again, the log goes on elsewhere")
)
