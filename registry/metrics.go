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

// maxLabels bounds the number of hosts in metrics, because hosts come from requests. Further hosts
// are counted as "other".
const maxLabels = 64

// metrics are the metrics of registries. All methods work without a registerer.
type metrics struct {
	requests  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	limit     *prometheus.GaugeVec
	remaining *prometheus.GaugeVec
	open      *prometheus.CounterVec
	paused    *prometheus.CounterVec
	copied    prometheus.Counter
	lookUps   *prometheus.CounterVec

	mu    sync.Mutex
	known map[string]bool
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	const ns, sub = "image_builder", "registry"
	host := []string{"host"}
	m := &metrics{
		requests:  prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "requests_total", Help: "Requests to registries by host and status; status 0 means no response."}, []string{"host", "code"}),
		seconds:   prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: ns, Subsystem: sub, Name: "request_seconds", Help: "Time until the response of a registry begins.", Buckets: []float64{.01, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}, host),
		limit:     prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "ratelimit_limit", Help: "Pulls that a registry allows in its window (RateLimit-Limit)."}, host),
		remaining: prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: ns, Subsystem: sub, Name: "ratelimit_remaining", Help: "Pulls that are left in the window (RateLimit-Remaining)."}, host),
		open:      prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "refused_resting_total", Help: "Requests that were not sent because the circuit breaker of their host was open."}, host),
		paused:    prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "refused_paused_total", Help: "Requests that were not sent because their host had asked for a pause."}, host),
		copied:    prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "copied_bytes_total", Help: "Bytes of blobs that copies have sent."}),
		lookUps:   prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: ns, Subsystem: sub, Name: "lookups_total", Help: "Look-ups by the source of the result: refcache (references that the cluster keeps resolved), cache or registry."}, []string{"from"}),
		known:     map[string]bool{},
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.limit, m.remaining, m.open, m.paused, m.copied, m.lookUps} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// label returns the host, or "other" if maxLabels hosts are known already.
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

// Sources of look-up results, as in the label "from".
const (
	fromRegistry = "registry"
	fromCache    = "cache"    // look-up cache (Options.CacheFor)
	fromKept     = "refcache" // Options.Kept
)

// lookedUp counts a look-up.
func (m *metrics) lookedUp(from string) {
	m.lookUps.WithLabelValues(from).Inc()
}

// requestRefused counts a request that was not sent because of an open circuit breaker or a pause.
func (m *metrics) requestRefused(host string, err error) {
	var open *openError
	var pause *pauseError
	switch {
	case errors.As(err, &open):
		m.open.WithLabelValues(m.label(host)).Inc()
	case errors.As(err, &pause):
		m.paused.WithLabelValues(m.label(host)).Inc()
	}
}

// requestDone counts a request. resp is nil if there was no response.
func (m *metrics) requestDone(host string, resp *http.Response, took time.Duration) {
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

// rateHeader parses the number in Docker Hub's form of these headers, 100;w=21600.
func rateHeader(h http.Header, name string) (float64, bool) {
	first, _, _ := strings.Cut(h.Get(name), ";")
	n, err := strconv.ParseUint(strings.TrimSpace(first), 10, 32)
	return float64(n), err == nil
}
