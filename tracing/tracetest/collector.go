// Package tracetest is a collector of traces for tests: a real gRPC server of OTLP that keeps the
// spans that it receives. It can hang and refuse spans.
package tracetest

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Span is one exported span.
type Span struct {
	// Instance is the process that created the span (service.instance.id).
	Instance          string
	Name              string
	Trace, ID, Parent string // hexadecimal
	Links             []string
	Attrs             map[string]string
	Failed            bool
	Start, End        time.Time
}

// Collector is a collector that runs until the end of the test. It is safe for concurrent use.
type Collector struct {
	collectorpb.UnimplementedTraceServiceServer
	// Addr is the address of the collector, host:port.
	Addr string

	mu      sync.Mutex
	spans   []Span
	raw     []byte
	refusal error
	hang    bool
	calls   int
	stopped chan struct{} // closed at the end of the test
}

// Start starts a collector on loopback.
func Start(t testing.TB, opts ...grpc.ServerOption) *Collector {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &Collector{Addr: l.Addr().String(), stopped: make(chan struct{})}
	g := grpc.NewServer(append([]grpc.ServerOption{grpc.MaxRecvMsgSize(64 << 20)}, opts...)...)
	collectorpb.RegisterTraceServiceServer(g, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = g.Serve(l)
	}()
	t.Cleanup(func() {
		close(c.stopped)
		g.Stop()
		<-done
	})
	return c
}

// Export receives spans. It is the method of OTLP.
func (c *Collector) Export(ctx context.Context, req *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	raw, err := proto.Marshal(req)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	c.mu.Lock()
	c.calls++
	hang, refusal := c.hang, c.refusal
	if !hang && refusal == nil {
		c.raw = append(c.raw, raw...)
		for _, rs := range req.ResourceSpans {
			instance := attrs(rs.GetResource().GetAttributes())["service.instance.id"]
			for _, ss := range rs.ScopeSpans {
				for _, s := range ss.Spans {
					c.spans = append(c.spans, span(instance, s))
				}
			}
		}
	}
	c.mu.Unlock()
	if hang {
		select {
		case <-ctx.Done():
		case <-c.stopped:
		}
		return nil, status.Error(codes.Unavailable, "the collector hung")
	}
	return &collectorpb.ExportTraceServiceResponse{}, refusal
}

// span converts a span of OTLP.
func span(instance string, s *tracepb.Span) Span {
	out := Span{
		Instance: instance, Name: s.Name, Trace: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId),
		Attrs: attrs(s.Attributes), Failed: s.GetStatus().GetCode() == tracepb.Status_STATUS_CODE_ERROR,
		Start: time.Unix(0, int64(s.StartTimeUnixNano)), End: time.Unix(0, int64(s.EndTimeUnixNano)),
	}
	for _, l := range s.Links {
		out.Links = append(out.Links, hex.EncodeToString(l.TraceId))
	}
	return out
}

// attrs converts attributes of OTLP to texts.
func attrs(kvs []*commonpb.KeyValue) map[string]string {
	out := map[string]string{}
	for _, kv := range kvs {
		switch v := kv.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			out[kv.Key] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			out[kv.Key] = fmt.Sprint(v.IntValue)
		case *commonpb.AnyValue_BoolValue:
			out[kv.Key] = fmt.Sprint(v.BoolValue)
		default:
			out[kv.Key] = fmt.Sprint(v)
		}
	}
	return out
}

// Spans returns the received spans of one trace in the order of arrival; all spans if trace is
// empty.
func (c *Collector) Spans(trace string) (out []Span) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if trace == "" || s.Trace == trace {
			out = append(out, s)
		}
	}
	return out
}

// Raw returns all accepted requests, encoded.
func (c *Collector) Raw() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]byte(nil), c.raw...)
}

// Calls returns the number of received exports, including those that hang or were refused.
func (c *Collector) Calls() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls
}

// Hang sets whether later exports hang without a response.
func (c *Collector) Hang(hang bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hang = hang
}

// Refuse sets the error of later exports. If err is nil, they are accepted.
func (c *Collector) Refuse(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusal = err
}
