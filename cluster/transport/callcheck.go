package transport

import (
	"context"
	"fmt"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Metadata of each call of the peer API: the id of the caller's cluster and the server id of the
// callee. Calls that form or join a cluster carry neither.
const (
	headerCluster = "ib-cluster-id"
	headerServer  = "ib-server-id"
)

func withHeaders(ctx context.Context, local Local, to raft.ServerID) context.Context {
	if to == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, headerCluster, local.Identity().GetClusterId(), headerServer, string(to))
}

func nameUnary(local Local, to raft.ServerID) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, res any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		return invoke(withHeaders(ctx, local, to), method, req, res, cc, opts...)
	}
}

func nameStream(local Local, to raft.ServerID) grpc.StreamClientInterceptor {
	return func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
		return open(withHeaders(ctx, local, to), desc, cc, method, opts...)
	}
}

// checkCall returns FailedPrecondition for a call of another cluster or for another server.
func checkCall(ctx context.Context, local Local, method string) error {
	switch method {
	case clusterv1.Peer_Hello_FullMethodName, clusterv1.Peer_Promise_FullMethodName, clusterv1.Peer_Join_FullMethodName:
		return nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	first := func(key string) string {
		if v := md.Get(key); len(v) > 0 {
			return v[0]
		}
		return ""
	}
	me := local.Identity()
	if to := first(headerServer); to != me.GetServerId() {
		return status.Error(codes.FailedPrecondition, fmt.Sprintf("the call is for server %q, this is %q", to, me.GetServerId()))
	}
	if id := first(headerCluster); id != me.GetClusterId() || id == "" {
		return status.Error(codes.FailedPrecondition, fmt.Sprintf("the call is of cluster %q, this node is of %q", id, me.GetClusterId()))
	}
	return nil
}

func checkUnary(local Local) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
		if err := checkCall(ctx, local, info.FullMethod); err != nil {
			return nil, err
		}
		return h(ctx, req)
	}
}

func checkStream(local Local) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
		if err := checkCall(ss.Context(), local, info.FullMethod); err != nil {
			return err
		}
		return h(srv, ss)
	}
}
