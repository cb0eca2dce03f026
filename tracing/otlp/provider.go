package otlp

import (
	"context"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// Provider creates spans and exports them. A nil Provider is valid and traces nothing.
type Provider struct {
	queue     *queue
	api, work *sdktrace.TracerProvider
}

// New returns a provider. It connects when there are spans to export. It returns an error if the
// files of TLS cannot be read. The caller closes the provider.
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
		otlptracegrpc.WithEndpoint(o.Endpoint), security, otlptracegrpc.WithTimeout(exportTimeout),
		otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: 200 * time.Millisecond, MaxInterval: 2 * time.Second, MaxElapsedTime: exportTimeout}),
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

// API returns the provider for calls of clients, which can begin traces. It returns nil if p is
// nil.
func (p *Provider) API() trace.TracerProvider {
	if p == nil {
		return nil
	}
	return p.api
}

// Work returns the provider for everything else, which only continues traces. It returns nil if p
// is nil.
func (p *Provider) Work() trace.TracerProvider {
	if p == nil {
		return nil
	}
	return p.work
}

// Tracer returns a tracer of Work. It returns nil if p is nil.
func (p *Provider) Tracer(name string) trace.Tracer {
	if p == nil {
		return nil
	}
	return p.work.Tracer(name)
}

// Close exports the spans that have ended, until ctx ends, and drops the rest. Spans that end later
// are dropped.
func (p *Provider) Close(ctx context.Context) {
	if p != nil {
		p.queue.close(ctx)
	}
}

// stateless is a sampler that removes the trace state, which is a text of the client, from spans.
type stateless struct{ sdktrace.Sampler }

func (s stateless) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	res := s.Sampler.ShouldSample(p)
	res.Tracestate = trace.TraceState{}
	return res
}
