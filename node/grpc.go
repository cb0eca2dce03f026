package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/api"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	"github.com/image-builder-ha/image-builder/proto/builder"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/tracing"
)

// maxMessage is the greatest request that is accepted, in bytes.
const maxMessage = 16 << 20

// serving is what listens.
type servers struct {
	node        *Node
	grpc     *grpc.Server
	operator *grpc.Server
	socket   *splitListener // of operators; nil without one
	health   *health.Server
	http     *httpServers
	wg       sync.WaitGroup
	end      context.CancelFunc
}

// serve starts all servers. One that ends by itself is reported on failed.
func (n *Node) serve(l listeners, failed chan<- error) (*servers, error) {
	v := &servers{node: n, health: health.NewServer(), end: n.endStreams}
	opts, err := n.grpcOptions(n.streams)
	if err != nil {
		return nil, err
	}
	creds, err := serverCredentials(n.cfg, n.log)
	if err != nil {
		return nil, err
	}
	if l.http, err = n.httpTLS(l.http); err != nil {
		return nil, err
	}
	if l.pprof, err = n.pprofTLS(l.pprof); err != nil {
		return nil, err
	}
	v.grpc = v.newServer(slices.Concat(opts, n.operatorCalls(n.hasOperatorCert), creds))
	v.operator = v.newServer(slices.Concat(opts, n.operatorCalls(func(context.Context) bool { return true })))
	if l.grpc != nil {
		v.start(v.grpc, l.grpc, failed)
	}
	if l.operator != nil {
		v.socket = splitConns(l.operator)
		v.wg.Go(v.socket.run)
		v.start(v.operator, v.socket.grpc, failed)
	}
	v.http = n.serveHTTP(l, v.socket, &v.wg, failed)
	return v, nil
}

func (v *servers) newServer(opts []grpc.ServerOption) *grpc.Server {
	g := grpc.NewServer(opts...)
	imagebuilderv1.RegisterImageBuilderServer(g, api.Native{Service: v.node.service})
	builder.RegisterImageBuilderServer(g, api.Gitpod{Service: v.node.service})
	imagebuilderv1.RegisterClusterServer(g, clusterAPI{node: v.node})
	healthpb.RegisterHealthServer(g, v.health)
	reflection.Register(g)
	return g
}

func (v *servers) start(g *grpc.Server, l net.Listener, failed chan<- error) {
	v.wg.Go(func() {
		if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			failed <- fmt.Errorf("serve gRPC on %s: %w", l.Addr(), err)
		}
	})
}

// stop tells clients to go elsewhere, lets calls end, and cuts off what does
// not end within grace.
func (v *servers) stop(grace time.Duration) {
	v.health.Shutdown()
	v.end() // streams wait for builds: they end now
	t := time.AfterFunc(grace, func() { v.grpc.Stop(); v.operator.Stop() })
	v.grpc.GracefulStop()
	v.operator.GracefulStop()
	t.Stop()
	v.http.stop(grace)
	if v.socket != nil {
		v.socket.close()
	}
	v.wg.Wait()
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

// operatorCalls marks calls of operators and refuses what is for them alone.
func (n *Node) operatorCalls(operator func(context.Context) bool) []grpc.ServerOption {
	authorize := func(ctx context.Context, method string) (context.Context, error) {
		switch {
		case operator(ctx):
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

// hasOperatorCert reports whether the caller showed a certificate, verified by
// the CA of the API, that names the operator role of this cluster.
func (n *Node) hasOperatorCert(ctx context.Context) bool {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return false
	}
	t, ok := p.AuthInfo.(credentials.TLSInfo)
	return ok && n.isOperator(&t.State)
}

// streamWith is a stream with another context.
type contextStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s contextStream) Context() context.Context { return s.ctx }

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

// errMoving tells clients to go on elsewhere.
var errShuttingDown = status.Error(codes.Unavailable, "the node shuts down; ask again, the build goes on")

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
