package node

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// counters are the metrics that existing Gitpod dashboards read.
type counters struct {
	started prometheus.Counter
	done    *prometheus.CounterVec
	left    prometheus.Counter
	expired prometheus.Counter
}

func newCounters(reg prometheus.Registerer) counters {
	c := counters{
		started: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "gitpod_image_builder_builds_started_total", Help: "Builds created by commands of this node; the sum over all nodes is the number of builds.",
		}),
		done: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "gitpod_image_builder_builds_done_total", Help: "Builds ended by commands of this node; the sum over all nodes is the number of builds.",
		}, []string{"success"}),
		left: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "image_builder_list_left_off_total", Help: "Builds for which an answer of Gitpod's ListBuilds, of 4 MiB, had had no room.",
		}),
		expired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "image_builder_logs_expired_total", Help: "Builds whose logs this node, as the leader, removed by retention.",
		}),
	}
	reg.MustRegister(c.started, c.done, c.left, c.expired)
	c.done.WithLabelValues("true")
	c.done.WithLabelValues("false")
	return c
}

func (c counters) created(*imagebuilderv1.Build) { c.started.Inc() }

func (c counters) leftOff(n int) { c.left.Add(float64(n)) }

func (c counters) logsExpired(n int) { c.expired.Add(float64(n)) }

func (c counters) ended(r *buildsv1.Record) {
	if r.Build.Phase == builds.Succeeded {
		c.done.WithLabelValues("true").Inc()
	} else {
		c.done.WithLabelValues("false").Inc()
	}
}

// watchState exports what the state and this node hold.
func (n *Node) exportState() {
	gauge := func(name, help string, labels prometheus.Labels, f func() float64) {
		n.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, f))
	}
	for phase, count := range map[string]func(builds.Counts) int{
		"queued": func(c builds.Counts) int { return c.Queued },
		"live":   func(c builds.Counts) int { return c.Live },
		"ended":  func(c builds.Counts) int { return c.History },
	} {
		gauge("image_builder_builds", "Builds in the state.", prometheus.Labels{"phase": phase}, func() (value float64) {
			n.store.Read(func(st *builds.State) { value = float64(count(st.Counts())) })
			return value
		})
	}
	gauge("image_builder_attempts_running", "Attempts that this node runs.", nil, func() float64 { return float64(n.owner.Running()) })
	gauge("image_builder_attempts_capacity", "Attempts that this node runs at most.", nil, func() float64 { return float64(n.cfg.Builds.RunningPerNode) })
	gauge("image_builder_applied_index", "Index of the last applied command.", nil, func() float64 { return float64(n.cluster.Applied()) })
	gauge("image_builder_leader", "1 on the leader.", nil, func() float64 {
		if n.cluster.Status().Role == "Leader" {
			return 1
		}
		return 0
	})
}
