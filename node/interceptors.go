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

// contextStream is a server stream with another context.
type contextStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context returns the context of the stream.
func (s contextStream) Context() context.Context { return s.ctx }

// errShuttingDown is the error of calls that the shutdown ends. Clients repeat the call on another
// node.
var errShuttingDown = status.Error(codes.Unavailable, "the node shuts down; ask again, the build goes on")

// endStreamsOnShutdown ends streams when the context streams ends. Those that fail then return
// errShuttingDown.
func endStreamsOnShutdown(streams context.Context) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		ctx, cancel := context.WithCancel(ss.Context())
		defer cancel()
		defer context.AfterFunc(streams, cancel)()
		err := h(srv, contextStream{ss, ctx})
		if err != nil && streams.Err() != nil {
			return errShuttingDown
		}
		return err
	}
}

// endWaitsOnShutdown does the same for BuildStatus with wait_for, the only unary call that may wait
// for a long time.
func endWaitsOnShutdown(streams context.Context) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		if r, ok := req.(*imagebuilderv1.BuildStatusRequest); !ok || r.GetWaitFor() == 0 {
			return h(ctx, req)
		}
		ctx, cancel := ctxutil.Join(ctx, streams)
		defer cancel()
		res, err := h(ctx, req)
		if err != nil && streams.Err() != nil {
			return nil, errShuttingDown
		}
		return res, err
	}
}

// recoverUnary and recoverStream turn a panic in a call into an error of that call, so that the
// process and all other calls continue.
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

// panicError logs a panic in a call, and returns the error for the client. The value of the panic
// may contain secrets, so only its type is logged.
func (n *Node) panicError(method string, p any) error {
	n.log.Error("panic in a call", "method", method, "panic", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
	return status.Errorf(codes.Internal, "%s failed by a defect of the service; its log has the details", method)
}
