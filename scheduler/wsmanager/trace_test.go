package wsmanager_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	sdktracetest "go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc/metadata"

	"github.com/image-builder-ha/image-builder/proto/wsman"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
	"github.com/image-builder-ha/image-builder/tracing"
)

// Test_StartIsTraced checks that ws-manager receives the span of the workspace.
func Test_StartIsTraced(t *testing.T) {
	ended := sdktracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(ended))
	e := newEnv(t, func(o *wsmanager.Options) {
		o.Dial = tracing.DialOption(provider, wsman.WorkspaceManager_StartWorkspace_FullMethodName)
	})
	var received []string
	e.m.OnStart(func(ctx context.Context, _ *wsman.StartWorkspaceRequest) error {
		md, _ := metadata.FromIncomingContext(ctx)
		received = md.Get("traceparent")
		return nil
	})
	ctx, span := provider.Tracer("").Start(e.ctx, "run")
	e.ctx = ctx
	r := e.begin(dockerfileWorkload())
	e.img.push(ref, baseRef)
	e.stopped()
	r.succeeds(built("base-images"))
	span.End()
	spans := ended.Ended()
	i := slices.IndexFunc(spans, func(s sdktrace.ReadOnlySpan) bool { return s.Name() == "wsman.WorkspaceManager/StartWorkspace" })
	if i < 0 || spans[i].Parent().SpanID() != span.SpanContext().SpanID() {
		t.Fatalf("no span of the start below that of the run: %v", spans)
	}
	if want := spans[i].SpanContext(); len(received) != 1 || !strings.Contains(received[0], want.TraceID().String()+"-"+want.SpanID().String()) {
		t.Errorf("ws-manager received %v", received)
	}
	if len(spans) != 2 {
		t.Errorf("%d spans, want those of the run and of the start: subscriptions are not traced", len(spans))
	}
}
