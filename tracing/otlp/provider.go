package otlp

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Options say where spans go.
type Options struct {
	// Endpoint is host:port of the collector's OTLP port for gRPC.
	Endpoint string
	// TLS encrypts; without it the connection is plain text.
	TLS *TLS
	// Ratio of the traces that begin here which are recorded, 0 to 1. Those
	// whose caller records, or does not, follow the caller.
	Ratio float64
	// Node and Version describe this process.
	Node, Version string
	Registerer    prometheus.Registerer
	Logger        *slog.Logger
}

// Limits of the export. Spans that find no room are dropped, those of a batch
// that is not taken in time too.
const (
	queueSpans    = 8192
	batchSpans    = 512
	batchInterval = time.Second
	exportTime    = 10 * time.Second
	// maxValue is the longest value of an attribute, in bytes.
	maxValue = 512
)

// Provider makes spans and exports them.
type Provider struct {
	queue     *queue
	api, work *sdktrace.TracerProvider
}

// New answers a provider. It connects when there is something to export. Files
// of TLS that cannot be read are an error.
func New(o Options) (*Provider, error) {
	security := otlptracegrpc.WithInsecure()
	if o.TLS != nil {
		creds, err := o.TLS.credentials()
		if err != nil {
			return nil, err
		}
		security = otlptracegrpc.WithTLSCredentials(creds)
	}
	exporter, err := otlptrace.New(context.Background(), otlptracegrpc.NewClient(
		otlptracegrpc.WithEndpoint(o.Endpoint), security, otlptracegrpc.WithTimeout(exportTime),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: 200 * time.Millisecond, MaxInterval: 2 * time.Second, MaxElapsedTime: exportTime}),
	))
	if err != nil {
		return nil, fmt.Errorf("open the export of traces to %s: %w", o.Endpoint, err)
	}
	p := &Provider{queue: newQueue(exporter, o)}
	provider := func(root sdktrace.Sampler) *sdktrace.TracerProvider {
		limits := sdktrace.NewSpanLimits()
		limits.AttributeValueLengthLimit = maxValue
		return sdktrace.NewTracerProvider(
			sdktrace.WithSampler(stateless{sdktrace.ParentBased(root)}),
			sdktrace.WithResource(resource.NewSchemaless(
				attribute.String("service.name", "image-builder"), attribute.String("service.instance.id", o.Node), attribute.String("service.version", o.Version))),
			sdktrace.WithRawSpanLimits(limits), sdktrace.WithSpanProcessor(p.queue),
		)
	}
	p.api, p.work = provider(sdktrace.TraceIDRatioBased(o.Ratio)), provider(sdktrace.NeverSample())
	return p, nil
}

// API answers the provider for calls of clients, which may begin traces; nil
// if p is nil: nothing is traced.
func (p *Provider) API() trace.TracerProvider {
	if p == nil {
		return nil
	}
	return p.api
}

// Work answers the provider for all else, which only goes on with traces; nil
// if p is nil.
func (p *Provider) Work() trace.TracerProvider {
	if p == nil {
		return nil
	}
	return p.work
}

// Tracer answers a tracer of Work; nil if p is nil.
func (p *Provider) Tracer(name string) trace.Tracer {
	if p == nil {
		return nil
	}
	return p.work.Tracer(name)
}

// Close exports what has ended, as long as ctx allows. Spans that end later
// are dropped.
func (p *Provider) Close(ctx context.Context) {
	if p != nil {
		p.queue.close(ctx)
	}
}

// stateless keeps the trace state, a text of the client's, out of the spans.
type stateless struct{ sdktrace.Sampler }

func (s stateless) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	res := s.Sampler.ShouldSample(p)
	res.Tracestate = trace.TraceState{}
	return res
}
