package kubernetes

import (
	"fmt"
	"sync"
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

// watchErrorTTL is how long an error of the watch counts. The watch retries within about half a
// minute.
const watchErrorTTL = 45 * time.Second

// watchHealth holds the last error of the watch.
type watchHealth struct {
	mu       sync.Mutex
	err      error
	failedAt time.Time
}

func (t *watchHealth) recordError(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err, t.failedAt = err, time.Now()
}

// Trouble returns the health problem of the runtime, or nil if there is none. There is one if,
// within the last 45 seconds, the API did not respond to this node or refused its requests.
// Meanwhile builds wait.
func (r *Runtime) Trouble() error {
	t := &r.pods.health
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil || r.pods.informer.HasSynced() && time.Since(t.failedAt) > watchErrorTTL {
		return nil
	}
	return fmt.Errorf("the Kubernetes API does not show the build pods in namespace %s: %w: builds in pods wait: check the API and the rights of this service's account", r.opts.Namespace, t.err)
}
