package tracing

import (
	"context"
	"slices"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
)

// ServerOption returns options with which a gRPC server traces the given methods; all methods if
// none is given. It returns no options if p is nil.
func ServerOption(p trace.TracerProvider, methods ...string) []grpc.ServerOption {
	if p == nil {
		return nil
	}
	return []grpc.ServerOption{grpc.StatsHandler(otelgrpc.NewServerHandler(options(p, methods)...))}
}

// DialOption returns options with which a gRPC client traces the given methods and propagates the
// trace; all methods if none is given. It returns no options if p is nil.
func DialOption(p trace.TracerProvider, methods ...string) []grpc.DialOption {
	if p == nil {
		return nil
	}
	return []grpc.DialOption{grpc.WithStatsHandler(otelgrpc.NewClientHandler(options(p, methods)...))}
}

// options returns the options that server and client share.
func options(p trace.TracerProvider, methods []string) []otelgrpc.Option {
	return []otelgrpc.Option{
		otelgrpc.WithTracerProvider(p), otelgrpc.WithPropagators(Propagator),
		otelgrpc.WithMeterProvider(metricnoop.NewMeterProvider()), // the Prometheus interceptors count calls
		otelgrpc.WithFilter(func(i *stats.RPCTagInfo) bool {
			return len(methods) == 0 || slices.Contains(methods, i.FullMethodName)
		}),
	}
}

// HandOver returns options with which all calls of a gRPC client are children of a span that
// another process created. traceparent identifies the span, in the form of the W3C trace context.
// The span may be recorded or not. If traceparent is not valid, HandOver returns no options.
func HandOver(traceparent string) []grpc.DialOption {
	sc := trace.SpanContextFromContext(Propagator.Extract(context.Background(), propagation.MapCarrier{"traceparent": traceparent}))
	if !sc.IsValid() {
		return nil
	}
	header := propagation.MapCarrier{}
	Propagator.Inject(trace.ContextWithRemoteSpanContext(context.Background(), sc), header)
	with := func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "traceparent", header.Get("traceparent"))
	}
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, call grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			return call(with(ctx), method, req, reply, cc, opts...)
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			return open(with(ctx), desc, cc, method, opts...)
		}),
	}
}
