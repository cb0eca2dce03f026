package logs

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	bytes   prometheus.Counter
	sync    prometheus.Histogram
	readers prometheus.Gauge
	copied  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "image_builder_log_bytes_total", Help: "Bytes of logs that became durable.",
		}),
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "image_builder_log_sync_seconds", Help: "Time of one group fsync of logs.",
			Buckets: prometheus.ExponentialBuckets(.0005, 2, 14),
		}),
		readers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "image_builder_log_readers", Help: "Open readers of logs.",
		}),
		copied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "image_builder_log_copied_bytes_total", Help: "Bytes of logs that were sent to copies on other nodes.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.bytes, m.sync, m.readers, m.copied)
	}
	return m
}
