package owner

import (
	"context"
	"log/slog"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/tracing"
)

// logger answers the node's log for lines about the attempt.
func (at *attempt) logger() *slog.Logger {
	log := at.owner.o.Log.With("build", at.key.build, "attempt", at.key.attempt, "epoch", at.key.epoch)
	if id := tracing.TraceID(at.record.Traceparent); id != "" {
		log = log.With("trace_id", id)
	}
	return log
}

// trace begins the span of the attempt in the trace of its build.
func (at *attempt) trace(ctx context.Context) (context.Context, trace.Span) {
	b := at.record.Build
	a := builds.LastAttempt(b)
	return tracing.Resume(ctx, at.owner.o.Tracer, at.record.Traceparent, "attempt", time.Time{},
		tracing.Build.String(b.Id), tracing.Ref.String(b.Ref), tracing.Attempt.Int64(int64(at.key.attempt)), tracing.Epoch.Int64(int64(at.key.epoch)),
		tracing.Runtime.String(a.GetRuntime()), tracing.Node.String(at.owner.o.Node))
}

// runTraced is Run of a runtime, with a span.
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

// publishTraced publishes at one ref, with a span.
func (at *attempt) publishTraced(ctx context.Context, image, ref string) error {
	ctx, span := tracing.Start(ctx, "publish", tracing.Ref.String(ref))
	err := at.owner.o.Publisher.Publish(ctx, image, ref)
	tracing.End(span, err)
	return err
}

// seal ends the log, with a span.
func seal(ctx context.Context, w logs.AttemptWriter) (int64, string, error) {
	ctx, span := tracing.Start(ctx, "seal log")
	length, checksum, err := w.Seal(ctx)
	if span.IsRecording() {
		span.SetAttributes(tracing.Bytes.Int64(length))
	}
	tracing.End(span, err)
	return length, checksum, err
}

// traceEnd tells the attempt's span how it ends.
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
