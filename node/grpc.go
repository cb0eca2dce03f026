package node

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/tracing"
)

// maxMessageBytes is the size of the greatest request that the node accepts.
const maxMessageBytes = 16 << 20

// newGRPCServer returns a server of all APIs: native, Gitpod's, operators', health checks and
// reflection.
func (n *Node) newGRPCServer(health healthpb.HealthServer, opts []grpc.ServerOption) *grpc.Server {
	g := grpc.NewServer(opts...)
	imagebuilderv1.RegisterImageBuilderServer(g, api.Native{Service: n.service})
	builder.RegisterImageBuilderServer(g, api.Gitpod{Service: n.service})
	imagebuilderv1.RegisterClusterServer(g, clusterAPI{node: n})
	healthpb.RegisterHealthServer(g, health)
	reflection.Register(g)
	return g
}

// grpcOptions returns the options that all gRPC servers share: limits, metrics, recovery from
// panics, refusal of calls to a wrong state, traces, and the end of streams and waits with the
// context streams.
func (n *Node) grpcOptions(streams context.Context) ([]grpc.ServerOption, error) {
	m := grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram(
		grpcprom.WithHistogramBuckets([]float64{.005, .025, .05, .1, .5, 1, 2.5, 5, 30, 60, 120, 240, 600})))
	if err := n.metrics.Register(m); err != nil {
		return nil, fmt.Errorf("register gRPC metrics: %w", err)
	}
	return append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessageBytes),
		// Gitpod's clients ping every 10 s, even without streams (docs/gitpod-contract.md, section
		// 10).
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.ChainUnaryInterceptor(m.UnaryServerInterceptor(), n.recoverUnary, n.refuseUnary, endWaitsOnShutdown(streams)),
		grpc.ChainStreamInterceptor(m.StreamServerInterceptor(), n.recoverStream, n.refuseStream, endStreamsOnShutdown(streams)),
	}, tracing.ServerOption(n.tracing.API(), tracedCalls...)...), nil
}

// serverCredentials returns the TLS option of the API port, or none if it is not encrypted.
func serverCredentials(cfg config.Config, log *slog.Logger) ([]grpc.ServerOption, error) {
	conf, err := serverTLS("server.services.grpc.tls", cfg.Server.Services.GRPC.TLS, log, "h2")
	if conf == nil || err != nil {
		return nil, err
	}
	return []grpc.ServerOption{grpc.Creds(credentials.NewTLS(conf))}, nil
}
