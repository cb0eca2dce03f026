package node

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/image-builder-ha/image-builder/builds"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/scheduler"
	"github.com/image-builder-ha/image-builder/tracing"
)

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

// watchCache exports what the reference cache holds.
func (n *Node) exportCache() {
	gauge := func(name, help string, f func(*builds.State) float64) {
		n.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "image_builder_refcache_" + name, Help: help}, func() (value float64) {
			n.store.Read(func(st *builds.State) { value = f(st) })
			return value
		}))
	}
	count := func(is func(*imagebuilderv1.CachedRef) bool) func(*builds.State) float64 {
		return func(st *builds.State) (value float64) {
			for _, r := range st.CachedRefs() {
				if is(r) {
					value++
				}
			}
			return value
		}
	}
	gauge("refs", "References that are kept resolved.", count(func(*imagebuilderv1.CachedRef) bool { return true }))
	gauge("failing_refs", "Cached references that could not be refreshed last.", count(func(r *imagebuilderv1.CachedRef) bool { return r.Failures > 0 }))
	gauge("unknown_refs", "Cached references without a digest yet.", count(func(r *imagebuilderv1.CachedRef) bool { return r.Digest == "" }))
	gauge("oldest_seconds", "Age of the oldest digest of a cached reference.", func(st *builds.State) (oldest float64) {
		for _, r := range st.CachedRefs() {
			if r.RefreshedAt != nil {
				oldest = max(oldest, time.Since(r.RefreshedAt.AsTime()).Seconds())
			}
		}
		return oldest
	})
}

// ended is told of builds that a command of this process has ended. It is
// called while the command is applied and does not block.
func (n *Node) ended(r *buildsv1.Record) {
	n.counters.ended(r)
	scheduler.TraceBuild(n.tracing.Tracer(tracing.Scope), r)
}

// published makes every node ask anew for the refs of a build that succeeded
// on any of them. It is called while a command is applied and does not block.
func (n *Node) published(b *imagebuilderv1.Build) {
	for _, ref := range []string{b.GetRef(), b.GetBaseRef()} {
		if ref != "" {
			n.images.Forget(ref)
		}
	}
}
