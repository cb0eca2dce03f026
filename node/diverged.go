package node

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// The interceptors in this file refuse the calls of clients while the replicated state of this node
// is wrong. Operators can call the node still.

// divergedError is the error of calls of clients on a node whose state is wrong.
func divergedError(reason error) error {
	return codedError{fmt.Errorf("ask another node: %w", reason), codes.Unavailable}
}

// readsState reports whether a method serves clients from the replicated state.
func readsState(method string) bool {
	return strings.HasPrefix(method, "/"+imagebuilderv1.ImageBuilder_ServiceDesc.ServiceName+"/") ||
		strings.HasPrefix(method, "/"+builder.ImageBuilder_ServiceDesc.ServiceName+"/")
}

func (n *Node) refuseUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
	if err := n.cluster.Diverged(); err != nil && readsState(info.FullMethod) {
		return nil, divergedError(err)
	}
	return h(ctx, req)
}

func (n *Node) refuseStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
	if err := n.cluster.Diverged(); err != nil && readsState(info.FullMethod) {
		return divergedError(err)
	}
	return h(srv, ss)
}

func (n *Node) refuseHTTP(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := n.cluster.Diverged(); err != nil {
			http.Error(w, divergedError(err).Error(), http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(w, r)
	})
}
