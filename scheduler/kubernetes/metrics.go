package kubernetes

import (
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// metrics are the metrics of a runtime. They are documented in docs/metrics.md.
type metrics struct {
	created, adopted, retries, watchErrors prometheus.Counter
	start                                  prometheus.Histogram
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "image_builder_kubernetes_" + name, Help: help})
	}
	return &metrics{
		created:     counter("pods_created_total", "Build pods that this node created."),
		adopted:     counter("pods_adopted_total", "Build pods of other owners that this node took over."),
		retries:     counter("api_retries_total", "Requests to the Kubernetes API that were retried."),
		watchErrors: counter("watch_errors_total", "Failures to list or watch build pods."),
		start: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "image_builder_kubernetes_pod_start_seconds", Help: "Time from the creation of a pod until its worker runs.",
			Buckets: []float64{0.5, 1, 2, 4, 8, 15, 30, 60, 120, 300, 600, 1800},
		}),
	}
}

// register registers the metrics, including the number of pods that the watch knows.
func (m *metrics) register(reg prometheus.Registerer, pods *podWatch) error {
	if reg == nil {
		return nil
	}
	all := []prometheus.Collector{m.created, m.adopted, m.retries, m.watchErrors, m.start}
	for phase, is := range map[string]func(*corev1.Pod) bool{
		"pending": func(p *corev1.Pod) bool { return !over(p, time.Now()) && !reachable(p) },
		"running": func(p *corev1.Pod) bool { return !over(p, time.Now()) && reachable(p) },
		"ended":   func(p *corev1.Pod) bool { return over(p, time.Now()) },
	} {
		all = append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "image_builder_kubernetes_pods", Help: "Build pods of the install, as this node sees them.", ConstLabels: prometheus.Labels{"phase": phase},
		}, func() (n float64) {
			for _, p := range pods.all() {
				if is(p) {
					n++
				}
			}
			return n
		}))
	}
	for _, c := range all {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("kubernetes: register metrics: %w", err)
		}
	}
	return nil
}
