package node

import (
	"context"
	"crypto/tls"
	"net/http"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/cluster/pki"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// isOperator reports whether the client of a connection has presented a certificate with the
// operator role of this cluster, which the CA of the port has verified.
func (n *Node) isOperator(t *tls.ConnectionState) bool {
	if t == nil || len(t.VerifiedChains) == 0 {
		return false
	}
	id, err := pki.IdentityOf(t.VerifiedChains[0][0])
	return err == nil && id.Role == pki.RoleOperator && id.Cluster == n.cfg.Cluster.Name
}

// hasOperatorCert is isOperator for the caller of a gRPC call.
func (n *Node) hasOperatorCert(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	t, ok := p.AuthInfo.(credentials.TLSInfo)
	return ok && n.isOperator(&t.State)
}

// operatorCalls returns interceptors that mark the calls of operators (api.WithOperator). For other
// callers they refuse the operator API with PERMISSION_DENIED.
func (n *Node) operatorCalls(isOperator func(context.Context) bool) []grpc.ServerOption {
	authorize := func(ctx context.Context, method string) (context.Context, error) {
		switch {
		case isOperator(ctx):
			return api.WithOperator(ctx), nil
		case strings.HasPrefix(method, "/"+imagebuilderv1.Cluster_ServiceDesc.ServiceName+"/"):
			return nil, status.Errorf(codes.PermissionDenied, "%s is for operators: call it on the node's unix socket, or with a client certificate of the operator role", method)
		}
		return ctx, nil
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, h grpc.UnaryHandler) (any, error) {
			ctx, err := authorize(ctx, info.FullMethod)
			if err != nil {
				return nil, err
			}
			return h(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, h grpc.StreamHandler) error {
			ctx, err := authorize(ss.Context(), info.FullMethod)
			if err != nil {
				return err
			}
			return h(srv, contextStream{ss, ctx})
		}),
	}
}

// onlyOperators refuses callers that are not operators with 403. Without certificates of operators
// in the configuration it admits every caller: the port must then be a loopback port.
func (n *Node) onlyOperators(h http.Handler) http.Handler {
	if !n.cfg.KnowsOperators() {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !n.isOperator(r.TLS) {
			http.Error(w, "profiles are for operators: use the node's unix socket, or a client certificate of the operator role", http.StatusForbidden)
			return
		}
		h.ServeHTTP(w, r)
	})
}
