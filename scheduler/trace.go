package scheduler

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/tracing"
)

// traceDecision starts the spans of a decision about traced builds: the time in the queue, and the
// commit of the assignment. The caller calls end with the result of the commit.
func traceDecision(ctx context.Context, tracer trace.Tracer, view *builds.State, now time.Time, d decision) (end func(error)) {
	if tracer == nil || len(d.assign)+len(d.reassign) == 0 {
		return func(error) {}
	}
	var spans []trace.Span
	begin := func(name string, a *buildsv1.AssignAttempt_Assignment, batch int) {
		r := view.Build(a.BuildId)
		if r.GetTraceparent() == "" {
			return
		}
		if name == "assign" {
			_, queued := tracing.Resume(ctx, tracer, r.Traceparent, "queued", queuedSince(r.Build),
				tracing.Build.String(a.BuildId), tracing.Attempt.Int64(int64(a.Attempt)))
			queued.End(trace.WithTimestamp(now))
		}
		_, span := tracing.Resume(ctx, tracer, r.Traceparent, name, now,
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

// queuedSince returns the time at which a queued build began to wait: the end of its last attempt,
// or its creation.
func queuedSince(b *imagebuilderv1.Build) time.Time {
	if a := builds.LastAttempt(b); a.GetEndedAt() != nil {
		return a.EndedAt.AsTime()
	}
	return b.CreatedAt.AsTime()
}

// TraceBuild makes the span of a build that has ended, from its creation to its end. The times are
// those of the leaders. TraceBuild does not block.
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
