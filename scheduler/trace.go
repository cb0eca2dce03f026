package scheduler

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/tracing"
)

// trace makes the spans of a decision about traced builds: how long each was
// queued until now, and what is about to be committed. Call told after that.
func (l *Leader) trace(ctx context.Context, view *builds.State, now time.Time, d decision) (told func(error)) {
	if l.o.Tracer == nil || len(d.assign)+len(d.reassign) == 0 {
		return func(error) {}
	}
	var spans []trace.Span
	begin := func(name string, a *buildsv1.AssignAttempt_Assignment, batch int) {
		r := view.Build(a.BuildId)
		if r.GetTraceparent() == "" {
			return
		}
		if name == "assign" {
			_, queued := tracing.Resume(ctx, l.o.Tracer, r.Traceparent, "queued", queuedSince(r.Build),
				tracing.Build.String(a.BuildId), tracing.Attempt.Int64(int64(a.Attempt)))
			queued.End(trace.WithTimestamp(now))
		}
		_, span := tracing.Resume(ctx, l.o.Tracer, r.Traceparent, name, now,
			tracing.Build.String(a.BuildId), tracing.Attempt.Int64(int64(a.Attempt)), tracing.Epoch.Int64(int64(a.Epoch)),
			tracing.Owner.String(a.Owner), tracing.Runtime.String(a.Runtime), tracing.Batch.Int(batch))
		spans = append(spans, span)
	}
	for _, a := range d.assign {
		begin("assign", a, len(d.assign))
	}
	for _, a := range d.reassign {
		begin("reassign", a, len(d.reassign))
	}
	return func(err error) {
		for _, s := range spans {
			tracing.End(s, err)
		}
	}
}

// queuedSince is when a queued build began to wait: when it was created, or
// when its last attempt ended.
func queuedSince(b *imagebuilderv1.Build) time.Time {
	if a := builds.LastAttempt(b); a.GetEndedAt() != nil {
		return a.EndedAt.AsTime()
	}
	return b.CreatedAt.AsTime()
}

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
func runTraced(ctx context.Context, rt Runtime, w *Workload, sink Sink) (out Outcome, err error) {
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
func seal(ctx context.Context, w LogWriter) (int64, string, error) {
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

// TraceBuild makes the span of a build that has ended, from its creation on,
// with times of the leaders'. It does not block.
func TraceBuild(tracer trace.Tracer, r *buildsv1.Record) {
	if tracer == nil || r.GetTraceparent() == "" {
		return
	}
	b := r.Build
	_, span := tracing.Resume(context.Background(), tracer, r.Traceparent, "build", b.CreatedAt.AsTime(),
		tracing.Build.String(b.Id), tracing.Ref.String(b.Ref), tracing.Source.String(sourceKind(b)), tracing.Digest.String(b.Digest),
		tracing.Attempt.Int(len(b.Attempts)), tracing.Phase.String(b.Phase.String()), tracing.Blame.String(b.Blame.String()))
	if b.Phase == builds.Failed {
		span.SetStatus(codes.Error, "")
	}
	span.End(trace.WithTimestamp(b.EndedAt.AsTime()))
}

func sourceKind(b *imagebuilderv1.Build) string {
	if b.Source.GetDockerfile() != nil {
		return "dockerfile"
	}
	return "ref"
}
