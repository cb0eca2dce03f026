package cluster

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/cluster/restorefiles"
	"github.com/image-builder-ha/image-builder/cluster/snapshot"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// GetState streams the state of this node to a member whose own state is wrong.
func (a restoreAPI) GetState(req *clusterv1.GetStateRequest, stream clusterv1.Restore_GetStateServer) error {
	n := a.node
	if !n.leading() {
		return status.Error(codes.FailedPrecondition, ErrNoLeader.Error())
	}
	if err := n.Diverged(); err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	select {
	case n.stateBusy <- struct{}{}:
		defer func() { <-n.stateBusy }()
	default:
		return status.Error(codes.ResourceExhausted, "another member fetches the state: ask again")
	}
	ctx, cancel := n.untilClosed(stream.Context())
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, repairTimeout)
	defer stop()
	if err := n.fsm.Wait(ctx, req.GetIndex()); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	s, err := n.fsm.Capture(ctx)
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	w := partWriter{send: func(part []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return stream.Send(&clusterv1.GetStateResponse{Part: part})
	}}
	err = snapshot.Write(&w, s.At, s.State)
	if err == nil {
		err = w.flush()
	}
	return err
}

// partWriter collects the written data and sends it in parts of restorefiles.PartBytes.
type partWriter struct {
	send func(part []byte) error
	buf  []byte
}

func (w *partWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	for len(w.buf) >= restorefiles.PartBytes {
		if err := w.send(w.buf[:restorefiles.PartBytes]); err != nil {
			return 0, err
		}
		w.buf = append([]byte(nil), w.buf[restorefiles.PartBytes:]...)
	}
	return len(p), nil
}

func (w *partWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	return w.send(w.buf)
}
