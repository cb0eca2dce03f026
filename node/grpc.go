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

// maxMessage is the greatest request that is accepted, in bytes.
const maxMessage = 16 << 20

func (v *servers) newServer(opts []grpc.ServerOption) *grpc.Server {
	g := grpc.NewServer(opts...)
	imagebuilderv1.RegisterImageBuilderServer(g, api.Native{Service: v.node.service})
	builder.RegisterImageBuilderServer(g, api.Gitpod{Service: v.node.service})
	imagebuilderv1.RegisterClusterServer(g, clusterAPI{node: v.node})
	healthpb.RegisterHealthServer(g, v.health)
	reflection.Register(g)
	return g
}

func (n *Node) grpcOptions(streams context.Context) ([]grpc.ServerOption, error) {
	m := grpcprom.NewServerMetrics(grpcprom.WithServerHandlingTimeHistogram(
		grpcprom.WithHistogramBuckets([]float64{.005, .025, .05, .1, .5, 1, 2.5, 5, 30, 60, 120, 240, 600})))
	if err := n.metrics.Register(m); err != nil {
		return nil, fmt.Errorf("register gRPC metrics: %w", err)
	}
	return append([]grpc.ServerOption{
		grpc.MaxRecvMsgSize(maxMessage),
		// Clients of the wire contract ping every 10 s, without streams too.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.ChainUnaryInterceptor(m.UnaryServerInterceptor(), n.recoverUnary, endWaitsOnShutdown(streams)),
		grpc.ChainStreamInterceptor(m.StreamServerInterceptor(), n.recoverStream, endStreamsOnShutdown(streams)),
	}, tracing.ServerOption(n.tracing.API(), tracedCalls...)...), nil
}

func serverCredentials(cfg config.Config, log *slog.Logger) ([]grpc.ServerOption, error) {
	conf, err := serverTLS("server.services.grpc.tls", cfg.Server.Services.GRPC.TLS, log, "h2")
	if conf == nil || err != nil {
		return nil, err
	}
	return []grpc.ServerOption{grpc.Creds(credentials.NewTLS(conf))}, nil
}
