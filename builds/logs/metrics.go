package logs

import (
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

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

// watch exports the gauges of the store.
func (s *Store) watch(reg prometheus.Registerer) {
	if reg == nil {
		return
	}
	gauge := func(name, help string, f func() float64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, f))
	}
	var used usage
	gauge("image_builder_log_disk_bytes", "Bytes of logs on the disk of this node, measured at most every 10 seconds.", func() float64 { return used.of(s.opts.Dir) })
	gauge("image_builder_log_disk_free_bytes", "Free bytes on the disk under the logs.", func() float64 {
		free, _ := freeBytes(s.opts.Dir)
		return float64(free)
	})
	gauge("image_builder_log_damaged", "Damaged copies of logs on the disk of this node that are not replaced yet.", func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(len(s.damaged))
	})
	gauge("image_builder_log_trouble", "1 while logs cannot be written and the node therefore takes no builds, else 0.", func() float64 {
		if s.Trouble() != nil {
			return 1
		}
		return 0
	})
}

// usageTTL is how long a measured size of the directory is reused.
const usageTTL = 10 * time.Second

// usage is the total size of the files in a directory.
type usage struct {
	mu    sync.Mutex
	at    time.Time
	bytes float64
}

func (u *usage) of(dir string) float64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if time.Since(u.at) < usageTTL {
		return u.bytes
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return u.bytes
	}
	u.at, u.bytes = time.Now(), 0
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			u.bytes += float64(info.Size())
		}
	}
	return u.bytes
}
