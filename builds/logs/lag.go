package logs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Limits of a healthy copy: the greatest number of missing bytes, and the longest time without a
// response.
const (
	maxLagBytes = 8 << 20
	lagTimeout  = 2 * time.Second
)

// Lag is how far the copies on one node are behind the logs that this node owns.
type Lag struct {
	Copy
	// Logs is the number of logs that have a copy there. Bytes is how many bytes these copies miss.
	Logs  int
	Bytes int64
	// Failing is the time since the node stopped responding; zero if it responds.
	Failing time.Duration
}

// Lags returns the lag of each node that holds copies of live logs of this node, sorted by name and
// store id.
func (r *Replicator) Lags() (out []Lag) {
	r.mu.Lock()
	feeds := make([]*Feed, 0, len(r.feeds))
	for _, f := range r.feeds {
		feeds = append(feeds, f)
	}
	r.mu.Unlock()
	byNode := map[Copy]*Lag{}
	for _, f := range feeds {
		durable, _ := r.store.Durable(f.key)
		f.mu.Lock()
		for c, m := range f.members {
			l := byNode[c]
			if l == nil {
				l = &Lag{Copy: c}
				byNode[c] = l
			}
			l.Logs++
			l.Bytes += max(durable-max(m.length, 0), 0)
			if !m.failingSince.IsZero() {
				l.Failing = max(l.Failing, time.Since(m.failingSince))
			}
		}
		f.mu.Unlock()
	}
	for _, l := range byNode {
		out = append(out, *l)
	}
	slices.SortFunc(out, func(a, b Lag) int {
		return cmp.Or(cmp.Compare(a.Node, b.Node), cmp.Compare(a.StoreID, b.StoreID))
	})
	return out
}

// healthTTL is how long a result of Trouble is reused. Trouble is called at every ping, many times
// a second, and has to look at all live logs.
const healthTTL = 500 * time.Millisecond

// Trouble returns an error that names the nodes whose copies are behind, so that readers of this
// node's logs wait; nil if there are none. The result may be healthTTL old.
func (r *Replicator) Trouble() error {
	r.health.mu.Lock()
	defer r.health.mu.Unlock()
	if now := time.Now(); r.health.at.IsZero() || now.Sub(r.health.at) >= healthTTL {
		r.health.at, r.health.err = now, r.checkLags()
	}
	return r.health.err
}

func (r *Replicator) checkLags() error {
	var slow []string
	for _, l := range r.Lags() {
		switch {
		case l.Failing > lagTimeout:
			slow = append(slow, fmt.Sprintf("node %s has not responded for %s, and %d logs wait for it", l.Node, l.Failing.Round(time.Second), l.Logs))
		case l.Bytes > maxLagBytes:
			slow = append(slow, fmt.Sprintf("node %s is %d bytes behind in %d logs", l.Node, l.Bytes, l.Logs))
		}
	}
	if slow == nil {
		return nil
	}
	return fmt.Errorf("copies of logs are behind: %s", strings.Join(slow, "; "))
}

var _ prometheus.Collector = (*Replicator)(nil)

var (
	lagDesc  = prometheus.NewDesc("image_builder_log_copy_lag_bytes", "Bytes that the copies on another node miss of live logs that this node owns.", []string{"node"}, nil)
	openDesc = prometheus.NewDesc("image_builder_log_copies", "Live logs of this node that have a copy on another node.", []string{"node"}, nil)
)

// Describe implements prometheus.Collector.
func (r *Replicator) Describe(out chan<- *prometheus.Desc) {
	out <- lagDesc
	out <- openDesc
}

// Collect implements prometheus.Collector. A node with a wiped disk has two places for copies:
// their sum is exported.
func (r *Replicator) Collect(out chan<- prometheus.Metric) {
	bytes, open := map[string]int64{}, map[string]int{}
	for _, l := range r.Lags() {
		bytes[l.Node] += l.Bytes
		open[l.Node] += l.Logs
	}
	for node, n := range bytes {
		out <- prometheus.MustNewConstMetric(lagDesc, prometheus.GaugeValue, float64(n), node)
		out <- prometheus.MustNewConstMetric(openDesc, prometheus.GaugeValue, float64(open[node]), node)
	}
}
