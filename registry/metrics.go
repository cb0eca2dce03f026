package registry

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// maxLabels bounds the hosts that metrics tell apart: hosts come from
// requests. Further ones are "other".
const maxLabels = 64

// metrics are what operators see of registries. All methods work without a
// registerer.
type metrics struct {
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	limit     *prometheus.GaugeVec
	remaining *prometheus.GaugeVec
	resting   *prometheus.CounterVec
	paused    *prometheus.CounterVec
	copied    prometheus.Counter
	cache     *prometheus.CounterVec

	mu    sync.Mutex
	known map[string]bool
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	const ns, sub = "image_builder", "registry"
	host := []string{"host"}
	m := &metrics{
		requests:  prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "requests_total", Help: "Requests to registries by host and status; status 0 is no answer."}, []string{"host", "code"}),
		seconds:   prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: ns, Subsystem: sub, Name: "request_seconds", Help: "Time until registries begin to answer.", Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}, host),
		limit:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "ratelimit_limit", Help: "Pulls that a registry allows in its window (RateLimit-Limit)."}, host),
		remaining: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "ratelimit_remaining", Help: "Pulls that are left in the window (RateLimit-Remaining)."}, host),
		resting:   prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "refused_resting_total", Help: "Requests that were not sent because their host did not answer before."}, host),
		paused:    prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "refused_paused_total", Help: "Requests that were not sent because their host had asked for a pause."}, host),
		copied:    prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "copied_bytes_total", Help: "Bytes of blobs that were sent by copies."}),
		cache:     prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "lookups_total", Help: "Look-ups by what answered them: refcache (references that the cluster keeps resolved), cache or registry."}, []string{"from"}),
		known:     map[string]bool{},
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.limit, m.remaining, m.resting, m.paused, m.copied, m.cache} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// label answers the host, or "other" if there are too many.
func (m *metrics) label(host string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known[host] {
		if len(m.known) == maxLabels {
			return "other"
		}
		m.known[host] = true
	}
	return host
}

// What look-ups are answered by.
const (
	fromRegistry = "registry"
	fromCache    = "cache"    // of digests, for Options.CacheFor
	fromKept     = "refcache" // Options.Kept
)

// lookedUp counts a look-up.
func (m *metrics) lookedUp(from string) {
	m.cache.WithLabelValues(from).Inc()
}

// refused counts a request that was not sent because its host is left alone.
func (m *metrics) refused(host string, err error) {
	var rest *restError
	var pause *pauseError
	switch {
	case errors.As(err, &rest):
		m.resting.WithLabelValues(m.label(host)).Inc()
	case errors.As(err, &pause):
		m.paused.WithLabelValues(m.label(host)).Inc()
	}
}

// answered counts a request; resp is nil for no answer.
func (m *metrics) answered(host string, resp *http.Response, took time.Duration) {
	host = m.label(host)
	if resp == nil {
		m.requests.WithLabelValues(host, "0").Inc()
		return
	}
	m.requests.WithLabelValues(host, strconv.Itoa(resp.StatusCode)).Inc()
	m.seconds.WithLabelValues(host).Observe(took.Seconds())
	if n, ok := rateHeader(resp.Header, "RateLimit-Limit"); ok {
		m.limit.WithLabelValues(host).Set(n)
	}
	if n, ok := rateHeader(resp.Header, "RateLimit-Remaining"); ok {
		m.remaining.WithLabelValues(host).Set(n)
	}
}

// rateHeader parses Docker Hub's form of these headers, 100;w=21600.
func rateHeader(h http.Header, name string) (float64, bool) {
	first, _, _ := strings.Cut(h.Get(name), ";")
	n, err := strconv.ParseUint(strings.TrimSpace(first), 10, 32)
	return float64(n), err == nil
}
