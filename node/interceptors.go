package node

import (
	"context"
	"fmt"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// streamWith is a stream with another context.
type contextStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s contextStream) Context() context.Context { return s.ctx }

// errMoving tells clients to go on elsewhere.
var errShuttingDown = status.Error(codes.Unavailable, "the node shuts down; ask again, the build goes on")

// movable ends streams when the node shuts down, and tells clients that they
// can go on elsewhere.
func endStreamsOnShutdown(serving context.Context) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		ctx, cancel := context.WithCancel(ss.Context())
		defer cancel()
		defer context.AfterFunc(serving, cancel)()
		err := h(srv, contextStream{ss, ctx})
		if err != nil && serving.Err() != nil {
			return errShuttingDown
		}
		return err
	}
}

// movableWait does the same for the one unary call that may wait for long.
func endWaitsOnShutdown(serving context.Context) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		if r, ok := req.(*imagebuilderv1.BuildStatusRequest); !ok || r.GetWaitFor() == 0 {
			return h(ctx, req)
		}
		ctx, cancel := ctxutil.Join(ctx, serving)
		defer cancel()
		res, err := h(ctx, req)
		if err != nil && serving.Err() != nil {
			return nil, errShuttingDown
		}
		return res, err
	}
}

// recoverUnary and recoverStream keep one call's panic from ending all others.
func (n *Node) recoverUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (res any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = n.panicError(info.FullMethod, p)
		}
	}()
	return h(ctx, req)
}

func (n *Node) recoverStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = n.panicError(info.FullMethod, p)
		}
	}()
	return h(srv, ss)
}

// panicked reports a panic in a call. The message of the panic may hold
// anything, so that the client does not get it.
func (n *Node) panicError(method string, p any) error {
	n.log.Error("panic in a call", "method", method, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
	return status.Errorf(codes.Internal, "%s failed by a defect of the service; its log has the details", method)
}
