package otlp_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/scheduler/wsmanager/wsmanagertest"
	"github.com/image-builder-ha/image-builder/test/testkit"
	"github.com/image-builder-ha/image-builder/tracing"
	"github.com/image-builder-ha/image-builder/tracing/otlp"
	"github.com/image-builder-ha/image-builder/tracing/tracetest"
)

// exporting is a provider with the registry of its metrics.
type exporting struct {
	*otlp.Provider
	metrics *prometheus.Registry
}

// open returns a provider that is closed at the end of the test.
func open(t testing.TB, endpoint string, change func(*otlp.Options)) exporting {
	t.Helper()
	e := exporting{metrics: prometheus.NewRegistry()}
	o := otlp.Options{Endpoint: endpoint, Ratio: 1, Node: "n1", Version: "v", Registerer: e.metrics, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&o)
	}
	var err error
	if e.Provider, err = otlp.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIn(t, e, time.Minute) })
	return e
}

// closeIn closes the provider within a time limit, and returns the time that it took.
func closeIn(t testing.TB, e exporting, limit time.Duration) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	began := time.Now()
	e.Close(ctx)
	return time.Since(began)
}

// count returns the value of a counter: of one reason, or the sum of all if reason is empty.
func (e exporting) count(t testing.TB, name, reason string) (n float64) {
	t.Helper()
	all, err := e.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		for _, m := range f.Metric {
			if f.GetName() == name && (reason == "" || m.Label[0].GetValue() == reason) {
				n += m.Counter.GetValue()
			}
		}
	}
	return n
}

const (
	droppedTotal  = "image_builder_trace_spans_dropped_total"
	exportedTotal = "image_builder_trace_spans_exported_total"
)

// Test_Exports checks that spans that have ended reach the collector, at the latest when the
// provider is closed.
func Test_Exports(t *testing.T) {
	c := tracetest.Start(t)
	e := open(t, c.Addr, nil)
	ctx, root := e.API().Tracer("").Start(t.Context(), "call")
	_, span := tracing.Start(ctx, "work", tracing.Build.String("b1"))
	span.End()
	root.End()
	closeIn(t, e, time.Minute)
	spans := c.Spans("")
	if len(spans) != 2 || spans[0].Name != "work" || spans[0].Parent != spans[1].ID || spans[0].Attrs["image_builder.build"] != "b1" || spans[0].Instance != "n1" {
		t.Fatalf("spans %+v", spans)
	}
	if n := e.count(t, exportedTotal, ""); n != 2 {
		t.Errorf("%v exported, want 2", n)
	}
}

// Test_Roots checks that only calls of clients begin traces, and that a trace of a caller is
// recorded if the caller records it. A commit or a ping without a trace begins none.
func Test_Roots(t *testing.T) {
	sampled := trace.NewSpanContext(trace.SpanContextConfig{TraceID: [16]byte{1}, SpanID: [8]byte{1}, TraceFlags: trace.FlagsSampled, Remote: true})
	for name, x := range map[string]struct {
		ratio  float64
		api    bool
		parent trace.SpanContext
		want   bool
	}{
		"a call":                         {1, true, trace.SpanContext{}, true},
		"a call, no ratio":               {0, true, trace.SpanContext{}, false},
		"a call, the caller records":     {0, true, sampled, true},
		"a call, the caller does not":    {1, true, sampled.WithTraceFlags(0), false},
		"work":                           {1, false, trace.SpanContext{}, false},
		"work of a call that is traced":  {1, false, sampled, true},
		"work of a call that is not":     {1, false, sampled.WithTraceFlags(0), false},
		"work, with a trace state":       {1, false, sampled, true},
		"a call of another that records": {1, true, sampled, true},
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t, "127.0.0.1:1", func(o *otlp.Options) { o.Ratio = x.ratio })
			p := e.Work()
			if x.api {
				p = e.API()
			}
			_, span := p.Tracer("").Start(trace.ContextWithRemoteSpanContext(t.Context(), x.parent), "s")
			if span.IsRecording() != x.want {
				t.Errorf("recorded %t", span.IsRecording())
			}
			if e.Provider = nil; e.API() != nil || e.Work() != nil || e.Tracer("") != nil {
				t.Error("a nil Provider returns a provider")
			}
		})
	}
}

// Test_NothingSecret checks that texts of other processes are not exported, wherever an
// instrumentation puts them.
func Test_NothingSecret(t *testing.T) {
	const secret = "hunter2"
	c := tracetest.Start(t)
	e := open(t, c.Addr, nil)
	state, err := trace.ParseTraceState("k=" + secret)
	if err != nil {
		t.Fatal(err)
	}
	parent := trace.NewSpanContext(trace.SpanContextConfig{TraceID: [16]byte{1}, SpanID: [8]byte{1}, TraceFlags: trace.FlagsSampled, TraceState: state, Remote: true})
	ctx, span := e.API().Tracer("").Start(trace.ContextWithRemoteSpanContext(t.Context(), parent), "call")
	span.SetAttributes(attribute.String("http.url", "https://u:"+secret+"@host"), attribute.String("rpc.method", "m"))
	span.RecordError(errors.New(secret))
	span.AddEvent(secret)
	span.SetStatus(codes.Error, secret)
	_, inner := tracing.Start(ctx, "inner", tracing.Ref.String("r"))
	tracing.End(inner, errors.New(secret))
	span.End()
	closeIn(t, e, time.Minute)
	if spans := c.Spans(""); len(spans) != 2 || !spans[0].Failed || !spans[1].Failed || spans[1].Attrs["rpc.method"] != "m" {
		t.Fatalf("spans %+v", spans)
	}
	if strings.Contains(string(c.Raw()), secret) {
		t.Error("the exported spans contain the secret")
	}
}

// Test_CollectorHangs checks that a collector that hangs delays neither the end of a span nor the
// end of the process, and that all dropped spans are counted.
func Test_CollectorHangs(t *testing.T) {
	c := tracetest.Start(t)
	c.Hang(true)
	e := open(t, c.Addr, nil)
	tracer := e.API().Tracer("")
	const spans = 40_000
	var longest time.Duration
	for range spans {
		_, span := tracer.Start(t.Context(), "s")
		began := time.Now()
		span.End()
		longest = max(longest, time.Since(began))
	}
	if longest > 2*time.Second { // an export would have taken 10 s
		t.Errorf("the end of a span took %s", longest)
	}
	if n := e.count(t, droppedTotal, "queue"); n == 0 || n >= spans {
		t.Errorf("%v dropped because the queue was full", n)
	}
	if took := closeIn(t, e, 100*time.Millisecond); took > 5*time.Second {
		t.Errorf("closing took %s", took)
	}
	if n := e.count(t, droppedTotal, ""); n != spans {
		t.Errorf("%v dropped, want all of %d counted", n, spans)
	}
	_, late := tracer.Start(t.Context(), "late")
	late.End()
	if n := e.count(t, droppedTotal, ""); n != spans+1 {
		t.Errorf("a span after the end is not counted: %v", n)
	}
}

// Test_CollectorRefuses checks that refused spans are counted, and that later spans are exported.
func Test_CollectorRefuses(t *testing.T) {
	c := tracetest.Start(t)
	c.Refuse(status.Error(grpccodes.InvalidArgument, "no"))
	e := open(t, c.Addr, nil)
	end := func() {
		_, span := e.API().Tracer("").Start(t.Context(), "s")
		span.End()
	}
	end()
	testkit.Eventually(t, time.Minute, "it is counted", func() bool { return e.count(t, droppedTotal, "collector") == 1 })
	c.Refuse(nil)
	end()
	testkit.Eventually(t, time.Minute, "it is exported", func() bool { return e.count(t, exportedTotal, "") == 1 })
	if problems, err := testutil.GatherAndLint(e.metrics); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// Test_TLS checks that the provider verifies the collector with the CA and presents the certificate
// of this node.
func Test_TLS(t *testing.T) {
	ca, other := wsmanagertest.NewAuthority(t), wsmanagertest.NewAuthority(t)
	cert, key := ca.Issue("n1")
	wrongCert, wrongKey := other.Issue("n1")
	c := tracetest.Start(t, grpc.Creds(ca.Server("localhost")))
	endpoint := strings.Replace(c.Addr, "127.0.0.1", "localhost", 1)
	export := func(files otlp.TLS) exporting {
		e := open(t, endpoint, func(o *otlp.Options) { o.TLS = &files })
		_, span := e.API().Tracer("").Start(t.Context(), "s")
		span.End()
		return e
	}
	for name, files := range map[string]otlp.TLS{
		"a collector of another authority":   {CA: other.CA, Cert: cert, Key: key},
		"a certificate of another authority": {CA: ca.CA, Cert: wrongCert, Key: wrongKey},
		"no certificate":                     {CA: ca.CA},
	} {
		if e := export(files); closeIn(t, e, 300*time.Millisecond) > 10*time.Second || e.count(t, droppedTotal, "collector") != 1 || c.Calls() != 0 {
			t.Errorf("%s: the span was not dropped", name)
		}
	}
	closeIn(t, export(otlp.TLS{CA: ca.CA, Cert: cert, Key: key}), time.Minute)
	if len(c.Spans("")) != 1 {
		t.Error("no span was exported over TLS")
	}
	// The next connection uses renewed files.
	renewed := otlp.TLS{CA: ca.CA, Cert: wrongCert, Key: wrongKey}
	e := export(renewed)
	for from, to := range map[string]string{cert: wrongCert, key: wrongKey} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, 10*time.Second, "the renewed certificate is used", func() bool {
		_, span := e.API().Tracer("").Start(t.Context(), "s")
		span.End()
		return e.count(t, exportedTotal, "") > 0
	})
	if _, err := otlp.New(otlp.Options{Endpoint: c.Addr, TLS: &otlp.TLS{CA: "none.pem"}}); err == nil {
		t.Error("New accepts a CA file that does not exist")
	}
}
