package logs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What makes a node's copies trouble: so many bytes that it does not have yet,
// or no answer for so long.
const (
	lagBytes = 8 << 20
	lagTime  = 2 * time.Second
)

// Lag is how far the copies on one node are behind the logs that this node
// owns.
type Lag struct {
	Copy
	// Logs is how many logs it copies, Bytes what it does not have of them.
	Logs  int
	Bytes int64
	// Failing is for how long it has not answered; zero if it does.
	Failing time.Duration
}

// Lags answers how the nodes are that hold copies of this node's live logs, by
// name.
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
			if !m.failing.IsZero() {
				l.Failing = max(l.Failing, time.Since(m.failing))
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

// troubleTime is for how long an answer of Trouble holds. It is asked at every
// ping, many times a second, and has to look at all live logs.
const troubleTime = 500 * time.Millisecond

// trouble is the last answer of Trouble.
type trouble struct {
	mu    sync.Mutex
	asked time.Time
	err   error
}

// Trouble names the nodes whose copies trail, so that readers of this node's
// logs wait; nil if there are none. It may be half a second old.
func (r *Replicator) Trouble() error {
	r.trouble.mu.Lock()
	defer r.trouble.mu.Unlock()
	if now := time.Now(); r.trouble.asked.IsZero() || now.Sub(r.trouble.asked) >= troubleTime {
		r.trouble.asked, r.trouble.err = now, r.lookForTrouble()
	}
	return r.trouble.err
}

func (r *Replicator) lookForTrouble() error {
	var slow []string
	for _, l := range r.Lags() {
		switch {
		case l.Failing > lagTime:
			slow = append(slow, fmt.Sprintf("node %s has not answered for %s, %d logs wait for it", l.Node, l.Failing.Round(time.Second), l.Logs))
		case l.Bytes > lagBytes:
			slow = append(slow, fmt.Sprintf("node %s trails by %d bytes in %d logs", l.Node, l.Bytes, l.Logs))
		}
	}
	if slow == nil {
		return nil
	}
	return fmt.Errorf("copies of logs are slow: %s", strings.Join(slow, "; "))
}

var _ prometheus.Collector = (*Replicator)(nil)

var (
	lagDesc  = prometheus.NewDesc("image_builder_log_copy_lag_bytes", "Bytes of live logs that this node owns and another one, which holds a copy, does not have yet.", []string{"node"}, nil)
	openDesc = prometheus.NewDesc("image_builder_log_copies", "Live logs that this node owns and copies to another one.", []string{"node"}, nil)
)

// Describe tells the metrics of replication.
func (r *Replicator) Describe(out chan<- *prometheus.Desc) {
	out <- lagDesc
	out <- openDesc
}

// Collect exports how far copies trail. Of a node with a wiped disk only the
// sum over both places counts.
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
