package tracing_test

import (
	"context"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	sdktracetest "go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/image-builder-ha/image-builder/tracing"
)

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// Test_Valid checks that exactly the form that Traceparent returns is valid: replicas store nothing
// else.
func Test_Valid(t *testing.T) {
	for s, want := range map[string]bool{
		parent: true,
		"":     false,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00":      false, // not sampled
		"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":      false,
		"00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01":      false,
		"00-00000000000000000000000000000000-b7ad6b7169203331-01":      false,
		"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01":      false,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x":    false,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333\n-01":     false,
		"00-0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331-01":      false,
		strings.Repeat("a", 55):                                        false,
		"00-0af7651916cd43dd8448eb211c80319\u00e9-b7ad6b7169203331-01": false,
	} {
		if got := tracing.Valid(s); got != want {
			t.Errorf("Valid(%q) = %t", s, got)
		}
	}
	if got := tracing.TraceID(parent); got != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("trace id %q", got)
	}
	if got := tracing.TraceID("00-secret"); got != "" {
		t.Errorf("trace id %q of no traceparent", got)
	}
}

func Fuzz_Valid(f *testing.F) {
	f.Add(parent)
	f.Fuzz(func(t *testing.T, s string) {
		if id := tracing.TraceID(s); tracing.Valid(s) != (len(id) == 32) {
			t.Errorf("%q: trace id %q", s, id)
		}
	})
}

// Test_Resume checks that a resumed span and its children belong to the trace of the record, and
// that Traceparent returns the innermost span.
func Test_Resume(t *testing.T) {
	ended := sdktracetest.NewSpanRecorder()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(ended)).Tracer("")
	at := time.Unix(1_700_000_000, 0)
	ctx, outer := tracing.Resume(t.Context(), tracer, parent, "outer", at, tracing.Build.String("b"))
	below, inner := tracing.Start(ctx, "inner")
	if got, want := tracing.Traceparent(below), "00-0af7651916cd43dd8448eb211c80319c-"+inner.SpanContext().SpanID().String()+"-01"; got != want {
		t.Errorf("traceparent %q, want %q", got, want)
	}
	if got := tracing.Traceparent(tracing.Quiet(below)); got != "" {
		t.Errorf("traceparent of a quiet context: %q", got)
	}
	tracing.End(inner, context.Canceled)
	tracing.End(outer, nil)
	spans := ended.Ended()
	if len(spans) != 2 || spans[0].Parent().SpanID() != spans[1].SpanContext().SpanID() || spans[1].Parent().SpanID().String() != "b7ad6b7169203331" {
		t.Fatalf("spans %v", spans)
	}
	if !spans[1].StartTime().Equal(at) || spans[0].Status().Description != "" {
		t.Errorf("begins at %s, status %v", spans[1].StartTime(), spans[0].Status())
	}
}

// Test_OffIsFree checks that the functions allocate nothing without a trace.
func Test_OffIsFree(t *testing.T) {
	ctx, ref, n := t.Context(), "registry.example.com/a:"+t.Name(), int64(time.Now().UnixNano())
	if got := testing.AllocsPerRun(1000, func() { off(ctx, ref, n) }); got != 0 {
		t.Errorf("%v allocations without a trace, want none", got)
	}
}

func Benchmark_Off(b *testing.B) {
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		off(ctx, "registry.example.com/a:b", 1)
	}
}

func Benchmark_On(b *testing.B) {
	tracer := sdktrace.NewTracerProvider().Tracer("")
	b.ReportAllocs()
	for b.Loop() {
		ctx, span := tracing.Resume(b.Context(), tracer, parent, "attempt", time.Time{}, tracing.Build.String("b"))
		off(ctx, "registry.example.com/a:b", 1)
		span.End()
	}
}

// off makes the same calls as the code that executes a build.
func off(ctx context.Context, ref string, n int64) {
	_, attempt := tracing.Resume(ctx, nil, "", "attempt", time.Time{}, tracing.Ref.String(ref), tracing.Attempt.Int64(n))
	ctx, span := tracing.Start(ctx, "run", tracing.Ref.String(ref), tracing.Index.Int64(n))
	tracing.Set(ctx, tracing.Digest.String(ref))
	tracing.Link(ctx, "")
	ctx = tracing.Quiet(ctx)
	if span.IsRecording() && tracing.Traceparent(ctx) != "" {
		panic("it is recorded")
	}
	tracing.End(span, nil)
	attempt.End()
}
