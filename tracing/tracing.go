package tracing

import (
	"context"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Scope is the instrumentation scope of all spans that are made here.
const Scope = "github.com/image-builder-ha/image-builder"

// Propagator is how a trace crosses a connection: W3C trace context and no
// baggage, which may hold anything.
var Propagator propagation.TextMapPropagator = propagation.TraceContext{}

// Attributes of spans. An exporter leaves all others out, but for those of RPC:
// a value is a ref, an id, a number or a word of ours, never a text that a
// request or an error brought.
const (
	Build    = attribute.Key("image_builder.build")
	Attempt  = attribute.Key("image_builder.attempt")
	Epoch    = attribute.Key("image_builder.epoch")
	Node     = attribute.Key("image_builder.node")
	Owner    = attribute.Key("image_builder.owner")
	Runtime  = attribute.Key("image_builder.runtime")
	Ref      = attribute.Key("image_builder.ref")
	Source   = attribute.Key("image_builder.source")
	Digest   = attribute.Key("image_builder.digest")
	Bytes    = attribute.Key("image_builder.bytes")
	Phase    = attribute.Key("image_builder.phase")
	Blame    = attribute.Key("image_builder.blame")
	Attached = attribute.Key("image_builder.attached")
	Exists   = attribute.Key("image_builder.exists")
	Index    = attribute.Key("image_builder.index")
	Batch    = attribute.Key("image_builder.batch")
	Outcome  = attribute.Key("image_builder.outcome")
	Workload = attribute.Key("image_builder.workload")
)

// Start starts a span under that of ctx. If ctx has none that is recorded, it
// answers ctx and a span that does nothing, and costs nothing. The caller ends
// the span, best with End.
func Start(ctx context.Context, name string, attrs ...attribute.KeyValue) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, noop.Span{}
	}
	return begin(ctx, parent.TracerProvider().Tracer(Scope), name, time.Time{}, attrs)
}

// Resume starts a span of a build from the traceparent of its record. If there
// is none, or tracer is nil, it does nothing, as Start does. A zero time is now.
func Resume(ctx context.Context, tracer trace.Tracer, traceparent, name string, at time.Time, attrs ...attribute.KeyValue) (context.Context, trace.Span) {
	if tracer == nil || traceparent == "" {
		return ctx, noop.Span{}
	}
	parent, ok := parse(traceparent)
	if !ok {
		return ctx, noop.Span{}
	}
	return begin(trace.ContextWithRemoteSpanContext(ctx, parent), tracer, name, at, attrs)
}

// Remote answers a context by which calls are handed to the span of a
// traceparent, where nothing is recorded here.
func Remote(ctx context.Context, traceparent string) context.Context {
	sc, ok := parse(traceparent)
	if !ok {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, sc)
}

// begin keeps attrs of its callers on their stacks.
func begin(ctx context.Context, tracer trace.Tracer, name string, at time.Time, attrs []attribute.KeyValue) (context.Context, trace.Span) {
	opts := []trace.SpanStartOption{trace.WithAttributes(slices.Clone(attrs)...)}
	if !at.IsZero() {
		opts = append(opts, trace.WithTimestamp(at))
	}
	return tracer.Start(ctx, name, opts...)
}

// End ends a span, as failed if err is one. The text of an error may hold what
// a request brought, and stays here.
func End(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, "")
	}
	span.End()
}

// Set adds attributes to the span of ctx, if it is recorded.
func Set(ctx context.Context, attrs ...attribute.KeyValue) {
	if span := trace.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(slices.Clone(attrs)...)
	}
}

// Quiet answers a context without the span of ctx, for calls that are repeated
// so often that nobody wants to see them.
func Quiet(ctx context.Context) context.Context {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	return trace.ContextWithSpan(ctx, noop.Span{})
}

// Link ties the span of ctx to the trace of a build that it has joined.
func Link(ctx context.Context, traceparent string) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	if to, ok := parse(traceparent); ok && to.TraceID() != span.SpanContext().TraceID() {
		span.AddLink(trace.Link{SpanContext: to})
	}
}
