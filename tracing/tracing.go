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

// Scope is the instrumentation scope of all spans of this package.
const Scope = "github.com/image-builder-ha/image-builder"

// Propagator propagates a trace over a connection: with W3C trace context, without baggage, which
// can contain any text.
var Propagator propagation.TextMapPropagator = propagation.TraceContext{}

// Attributes of spans. An exporter omits all other attributes except those of RPC. A value is a
// ref, an id, a number or a word of this project, never a text of a request or an error.
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

// Start starts a child of the span of ctx. If ctx has no recorded span, Start returns ctx and a
// span that does nothing, and allocates nothing. The caller ends the span, normally with End.
func Start(ctx context.Context, name string, attrs ...attribute.KeyValue) (context.Context, trace.Span) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, noop.Span{}
	}
	return begin(ctx, parent.TracerProvider().Tracer(Scope), name, time.Time{}, attrs)
}

// Resume starts a span of a build as a child of the traceparent in its record. If there is no valid
// traceparent, or tracer is nil, Resume returns ctx and a span that does nothing. at is the start
// of the span; now if zero.
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

// Remote returns a context whose calls are children of the span of a traceparent, for a process
// that records no spans itself. It returns ctx if the traceparent is not valid.
func Remote(ctx context.Context, traceparent string) context.Context {
	sc, ok := parse(traceparent)
	if !ok {
		return ctx
	}
	return trace.ContextWithRemoteSpanContext(ctx, sc)
}

// begin starts a span. It clones attrs so that the slices of the callers stay on their stacks.
func begin(ctx context.Context, tracer trace.Tracer, name string, at time.Time, attrs []attribute.KeyValue) (context.Context, trace.Span) {
	opts := []trace.SpanStartOption{trace.WithAttributes(slices.Clone(attrs)...)}
	if !at.IsZero() {
		opts = append(opts, trace.WithTimestamp(at))
	}
	return tracer.Start(ctx, name, opts...)
}

// End ends a span, as failed if err is not nil. The span does not contain the text of the error,
// which can contain secrets of a request.
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

// Quiet returns a context without the span of ctx, for calls that are repeated too often to be
// useful in a trace.
func Quiet(ctx context.Context) context.Context {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	return trace.ContextWithSpan(ctx, noop.Span{})
}

// Link links the span of ctx to the trace of the build that the call joined.
func Link(ctx context.Context, traceparent string) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	if to, ok := parse(traceparent); ok && to.TraceID() != span.SpanContext().TraceID() {
		span.AddLink(trace.Link{SpanContext: to})
	}
}
