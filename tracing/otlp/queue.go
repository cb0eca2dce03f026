package otlp

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// queue keeps spans that have ended until one goroutine has exported them. The
// SDK's own batcher does not tell how many it drops.
type queue struct {
	exporter sdktrace.SpanExporter
	log      *slog.Logger
	endpoint string

	spans  chan sdktrace.ReadOnlySpan
	stop   chan struct{} // closed: export what is there and end
	once   sync.Once
	cancel context.CancelFunc
	done   chan struct{}

	exported      prometheus.Counter
	full, refused prometheus.Counter
	failing       bool // only of run
}

var _ sdktrace.SpanProcessor = (*queue)(nil)

func newQueue(exporter sdktrace.SpanExporter, o Options) *queue {
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "image_builder_trace_spans_dropped_total", Help: "Spans of traces that were not exported: the queue was full, or the collector did not take them in time.",
	}, []string{"reason"})
	q := &queue{
		exporter: exporter, log: o.Logger, endpoint: o.Endpoint,
		spans: make(chan sdktrace.ReadOnlySpan, queueSpans), stop: make(chan struct{}), done: make(chan struct{}),
		exported: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "image_builder_trace_spans_exported_total", Help: "Spans of traces that the collector has taken.",
		}),
		full: dropped.WithLabelValues("queue"), refused: dropped.WithLabelValues("collector"),
	}
	o.Registerer.MustRegister(q.exported, dropped)
	var ctx context.Context
	ctx, q.cancel = context.WithCancel(context.Background())
	go q.run(ctx)
	return q
}

// OnStart has nothing to do.
func (q *queue) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd takes a span, or drops it. It never blocks.
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
			q.rest(ctx)
			return
		}
	}
}

// rest exports what is left.
func (q *queue) rest(ctx context.Context) {
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

// export hands a batch to the collector. It tells the log when that begins to
// fail and when it works again.
func (q *queue) export(ctx context.Context, batch []sdktrace.ReadOnlySpan) {
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, exportTime)
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
			q.log.Warn("the collector takes no spans of traces, they are dropped", "endpoint", q.endpoint, "err", err)
		} else {
			q.log.Info("the collector takes spans of traces again", "endpoint", q.endpoint)
		}
	}
}

// close exports what has ended, as long as ctx allows, and waits for the
// goroutine.
func (q *queue) close(ctx context.Context) {
	q.once.Do(func() { close(q.stop) })
	defer context.AfterFunc(ctx, q.cancel)()
	<-q.done
	q.cancel()
	_ = q.exporter.Shutdown(ctx) // nothing is under way
}

// Shutdown is close.
func (q *queue) Shutdown(ctx context.Context) error {
	q.close(ctx)
	return ctx.Err()
}

// ForceFlush does nothing: nobody waits for spans.
func (q *queue) ForceFlush(context.Context) error { return nil }
