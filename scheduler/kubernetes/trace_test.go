package kubernetes_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"slices"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	sdktracetest "go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/tracing/tracetest"
)

// Test_Run_Traced checks that the start of the pod is a span of its own, and that BuildKit's spans
// from inside of the pod are children of the owner's span.
func Test_Run_Traced(t *testing.T) {
	collector := tracetest.Start(t)
	s := newSite(t) // the daemon of this site, which all tests share, exports nothing
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://"+collector.Addr)
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	binary, err := filepath.Abs("../../bin/buildkitd")
	if err != nil {
		t.Fatal(err)
	}
	d, err := buildkit.StartDaemon(t.Context(), buildkit.DaemonOptions{Binary: binary, Root: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	s.buildkit = d.Addr()
	ended := sdktracetest.NewSpanRecorder()
	ctx, span := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(ended)).Tracer("").Start(testContext(t), "run")
	w, log := s.build(t, "traced", "FROM BASE\nRUN echo the-step-ran\n"), newSink()
	if _, err := s.runtime(t, "node-a").Run(ctx, w, log); err != nil {
		t.Fatalf("%v\n%s", err, log.text())
	}
	span.End()
	trace, id := span.SpanContext().TraceID().String(), span.SpanContext().SpanID().String()
	if !slices.ContainsFunc(ended.Ended(), func(s sdktrace.ReadOnlySpan) bool {
		return s.Name() == "kubernetes pod" && s.Parent().SpanID() == span.SpanContext().SpanID() && s.EndTime().Before(time.Now())
	}) {
		t.Error("the start of the pod is no span")
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); ; <-tick.C {
		spans := collector.Spans(trace)
		if slices.ContainsFunc(spans, func(s tracetest.Span) bool { return s.Parent == id && s.Name == "moby.buildkit.v1.Control/Solve" }) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the daemon exported no solve below the owner's span, but %v", spans)
		}
	}
}
