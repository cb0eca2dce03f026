package logs

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	bytes    prometheus.Counter
	sync     prometheus.Histogram
	readers  prometheus.Gauge
	copied   prometheus.Counter
	sent     *prometheus.CounterVec
	copying  *prometheus.HistogramVec
	received prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "image_builder_log_bytes_total", Help: "Bytes of logs that became durable.",
		}),
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "image_builder_log_sync_seconds", Help: "Duration of one flush, which fsyncs all logs with new output.",
			Buckets: prometheus.ExponentialBuckets(.0005, 2, 14),
		}),
		readers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "image_builder_log_readers", Help: "Open readers of logs.",
		}),
		copied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "image_builder_log_copied_bytes_total", Help: "Bytes of logs that copies on other nodes have stored and fsynced.",
		}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "image_builder_log_sent_bytes_total", Help: "Bytes of logs that were sent to copies on another node, accepted or refused.",
		}, []string{"node"}),
		copying: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "image_builder_log_copy_seconds", Help: "Time until another node acknowledges one batch of logs, including its fsync.",
			Buckets: prometheus.ExponentialBuckets(.0005, 2, 15),
		}, []string{"node"}),
		received: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "image_builder_log_received_bytes_total", Help: "Bytes of logs that this node received for copies of other nodes' logs.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.bytes, m.sync, m.readers, m.copied, m.sent, m.copying, m.received)
	}
	return m
}
