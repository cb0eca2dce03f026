package owner

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
	"github.com/image-builder-ha/image-builder/tracing"
)

// trace starts the span of the attempt in the trace of its build. The caller ends the span.
func (at *attempt) trace(ctx context.Context) (context.Context, trace.Span) {
	b := at.record.Build
	a := builds.LastAttempt(b)
	return tracing.Resume(ctx, at.owner.opts.Tracer, at.record.Traceparent, "attempt", time.Time{},
		tracing.Build.String(b.Id), tracing.Ref.String(b.Ref), tracing.Attempt.Int64(int64(at.key.attempt)), tracing.Epoch.Int64(int64(at.key.epoch)),
		tracing.Runtime.String(a.GetRuntime()), tracing.Node.String(at.owner.opts.Node))
}

// publishTraced calls Publish of the publisher in a span.
func (at *attempt) publishTraced(ctx context.Context, image, ref string) error {
	ctx, span := tracing.Start(ctx, "publish", tracing.Ref.String(ref))
	err := at.owner.opts.Publisher.Publish(ctx, image, ref)
	tracing.End(span, err)
	return err
}

// runTraced calls Run of a runtime in a span.
func runTraced(ctx context.Context, rt workload.Runtime, w *workload.Workload, sink workload.Sink) (out workload.Outcome, err error) {
	ctx, span := tracing.Start(ctx, "run", tracing.Runtime.String(rt.Name()))
	defer func() { tracing.End(span, err) }()
	if span.IsRecording() {
		span.SetAttributes(tracing.Workload.String(w.Name()))
	}
	out, err = rt.Run(ctx, w, sink)
	if err == nil && span.IsRecording() {
		span.SetAttributes(tracing.Digest.String(out.Digest), tracing.Bytes.Int64(out.SizeBytes))
	}
	return out, err
}

// sealTraced calls Seal of a log in a span.
func sealTraced(ctx context.Context, w logs.AttemptWriter) (length int64, checksum string, err error) {
	ctx, span := tracing.Start(ctx, "seal log")
	length, checksum, err = w.Seal(ctx)
	if span.IsRecording() {
		span.SetAttributes(tracing.Bytes.Int64(length))
	}
	tracing.End(span, err)
	return length, checksum, err
}

// traceEnd adds the end of the attempt to its span.
func traceEnd(ctx context.Context, c *buildsv1.FinishAttempt) {
	span := trace.SpanFromContext(ctx)
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(tracing.Phase.String(c.Phase.String()), tracing.Blame.String(c.Blame.String()))
	if c.Phase == builds.Failed {
		span.SetStatus(codes.Error, "")
	}
}
