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

// exportState registers metrics of the replicated state and of this node. They are computed at each
// scrape.
func (n *Node) exportState() {
	gauge := func(name, help string, labels prometheus.Labels, f func() float64) {
		n.metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, f))
	}
	for phase, count := range map[string]func(builds.Counts) int{
		"queued": func(c builds.Counts) int { return c.Queued },
		"live":   func(c builds.Counts) int { return c.Live },
		"ended":  func(c builds.Counts) int { return c.History },
	} {
		gauge("image_builder_builds", "Builds in the replicated state, by phase.", prometheus.Labels{"phase": phase}, func() (value float64) {
			n.store.Read(func(st *builds.State) { value = float64(count(st.Counts())) })
			return value
		})
	}
	gauge("image_builder_attempts_running", "Attempts that this node runs.", nil, func() float64 { return float64(n.owner.Running()) })
	gauge("image_builder_attempts_capacity", "The most attempts that this node runs.", nil, func() float64 { return float64(n.cfg.Builds.RunningPerNode) })
	gauge("image_builder_applied_index", "Index of the last command that this node has applied.", nil, func() float64 { return float64(n.cluster.Applied()) })
	gauge("image_builder_leader", "1 if this node is the leader, else 0.", nil, func() float64 {
		if n.cluster.Status().Role == "Leader" {
			return 1
		}
		return 0
	})
	gauge("image_builder_raft_disk_free_bytes", "Free bytes on the disk of the replicated log.", nil, func() float64 {
		free, _, _ := n.cluster.DiskFree()
		return float64(free)
	})
	gauge("image_builder_raft_disk_trouble", "1 while the replicated log cannot be written and the node therefore accepts no commands, else 0.", nil, func() float64 {
		if n.cluster.DiskProblem() != nil {
			return 1
		}
		return 0
	})
	gauge("image_builder_state_compared_index", "Index of the newest checkpoint at which the leader has compared the replicated states of members; 0 on other nodes.", nil, func() float64 {
		return float64(n.cluster.Divergence().Compared)
	})
	gauge("image_builder_state_diverged_members", "Members whose replicated states differ, as the leader sees them; 0 on other nodes.", nil, func() float64 {
		d := n.cluster.Divergence()
		return float64(len(d.Wrong) + len(d.Unclear))
	})
	counter := func(name, help string, f func() uint64) {
		n.metrics.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 { return float64(f()) }))
	}
	counter("image_builder_state_divergences_total", "Members whose replicated states differed. The leader that finds a member counts it.", n.cluster.DivergencesFound)
	counter("image_builder_state_replacements_total", "Times that this node has replaced its replicated state, because the state differed from that of the majority.", n.cluster.Repairs)
}

// exportCache registers metrics of the cached references. They are computed at each scrape.
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
	gauge("refs", "Cached references.", count(func(*imagebuilderv1.CachedRef) bool { return true }))
	gauge("failing_refs", "Cached references whose last refresh failed.", count(func(r *imagebuilderv1.CachedRef) bool { return r.Failures > 0 }))
	gauge("unknown_refs", "Cached references without a digest yet.", count(func(r *imagebuilderv1.CachedRef) bool { return r.Digest == "" }))
	gauge("oldest_seconds", "Age in seconds of the oldest digest of a cached reference.", func(st *builds.State) (oldest float64) {
		for _, r := range st.CachedRefs() {
			if r.RefreshedAt != nil {
				oldest = max(oldest, time.Since(r.RefreshedAt.AsTime()).Seconds())
			}
		}
		return oldest
	})
}

// hooks returns the functions that the state calls while it applies commands. They do not block.
func (n *Node) hooks() builds.Hooks {
	return builds.Hooks{
		Mine: n.cluster.Proposed, Created: n.counters.created, Ended: n.ended, Published: n.published, Requested: n.images.Forget,
	}
}

// ended counts and traces a build that a command of this process has ended.
func (n *Node) ended(r *buildsv1.Record) {
	n.counters.ended(r)
	scheduler.TraceBuild(n.tracing.Tracer(tracing.Scope), r)
}

// published drops the refs of a build that has succeeded on any node from the cache of the registry
// client, so that their next lookup queries the registry.
func (n *Node) published(b *imagebuilderv1.Build) {
	for _, ref := range []string{b.GetRef(), b.GetBaseRef()} {
		if ref != "" {
			n.images.Forget(ref)
		}
	}
}
