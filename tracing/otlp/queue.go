package otlp

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// queue holds spans that have ended until its goroutine exports them. The batcher of the SDK is not
// used because it does not report how many spans it drops.
type queue struct {
	exporter sdktrace.SpanExporter
	log      *slog.Logger
	endpoint string

	spans  chan sdktrace.ReadOnlySpan
	stop   chan struct{} // closed to export the rest and end
	once   sync.Once
	cancel context.CancelFunc
	done   chan struct{}

	exported      prometheus.Counter
	full, refused prometheus.Counter
	failing       bool // used by run only
}

var _ sdktrace.SpanProcessor = (*queue)(nil)

// newQueue returns a queue and starts its goroutine.
func newQueue(exporter sdktrace.SpanExporter, o Options) *queue {
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "image_builder_trace_spans_dropped_total", Help: "Spans that were not exported because the queue was full (queue) or the collector did not accept them in time (collector).",
	}, []string{"reason"})
	q := &queue{
		exporter: exporter, log: o.Logger, endpoint: o.Endpoint,
		spans: make(chan sdktrace.ReadOnlySpan, queueSpans), stop: make(chan struct{}), done: make(chan struct{}),
		exported: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "image_builder_trace_spans_exported_total", Help: "Spans that the collector accepted.",
		}),
		full: dropped.WithLabelValues("queue"), refused: dropped.WithLabelValues("collector"),
	}
	o.Registerer.MustRegister(q.exported, dropped)
	var ctx context.Context
	ctx, q.cancel = context.WithCancel(context.Background())
	go q.run(ctx)
	return q
}

// OnStart does nothing.
func (q *queue) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd adds a span to the queue, or drops it if the queue is full. It never blocks.
func (q *queue) OnEnd(s sdktrace.ReadOnlySpan) {
	if !s.SpanContext().IsSampled() {
		return
	}
	select {
	case <-q.stop:
		q.full.Inc()
		return
	default:
	}
	select {
	case q.spans <- scrubbed{s}:
	default:
		q.full.Inc()
	}
}

// run exports until the queue is closed.
func (q *queue) run(ctx context.Context) {
	defer close(q.done)
	tick := time.NewTicker(batchInterval)
	defer tick.Stop()
	batch := make([]sdktrace.ReadOnlySpan, 0, batchSpans)
	for {
		stopping := false
		select {
		case s := <-q.spans:
			if batch = append(batch, s); len(batch) < batchSpans {
				continue
			}
		case <-tick.C:
		case <-q.stop:
			stopping = true
		}
		q.export(ctx, batch)
		batch = batch[:0]
		if stopping {
			q.flush(ctx)
			return
		}
	}
}

// flush exports the spans that are left in the queue.
func (q *queue) flush(ctx context.Context) {
	for {
		batch := make([]sdktrace.ReadOnlySpan, 0, batchSpans)
		for len(batch) < batchSpans && len(q.spans) > 0 {
			batch = append(batch, <-q.spans)
		}
		if len(batch) == 0 {
			return
		}
		q.export(ctx, batch)
	}
}

// export sends a batch to the collector. It logs when this begins to fail and when it works again.
func (q *queue) export(ctx context.Context, batch []sdktrace.ReadOnlySpan) {
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	err := q.exporter.ExportSpans(ctx, batch)
	if err != nil {
		q.refused.Add(float64(len(batch)))
	} else {
		q.exported.Add(float64(len(batch)))
	}
	if failing := err != nil; failing != q.failing {
		q.failing = failing
		if failing {
			q.log.Warn("the collector does not accept spans; they are dropped", "endpoint", q.endpoint, "err", err)
		} else {
			q.log.Info("the collector accepts spans again", "endpoint", q.endpoint)
		}
	}
}

// close exports the spans in the queue, until ctx ends, and waits for the goroutine.
func (q *queue) close(ctx context.Context) {
	q.once.Do(func() { close(q.stop) })
	defer context.AfterFunc(ctx, q.cancel)()
	<-q.done
	q.cancel()
	_ = q.exporter.Shutdown(ctx) // no export is in progress
}

// Shutdown closes the queue.
func (q *queue) Shutdown(ctx context.Context) error {
	q.close(ctx)
	return ctx.Err()
}

// ForceFlush does nothing: no caller waits for spans.
func (q *queue) ForceFlush(context.Context) error { return nil }
