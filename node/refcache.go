package node

import (
	"context"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/refcache"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry"
)

// kept answers what the cluster knows of a reference, from this node's memory.
// What could not be refreshed for longer than it is to be kept is unknown.
func (n *Node) kept(ref string) (registry.Kept, bool) {
	var r *imagebuilderv1.CachedRef
	var interval time.Duration
	n.store.Read(func(st *builds.State) {
		if r = st.CachedRef(ref); r != nil {
			interval = st.CacheInterval(r)
		}
	})
	return KeptOf(r, interval+time.Duration(n.cfg.RefCache.KeepFor))
}

// sharers is among how many nodes the limits of registry hosts are shared: all
// that are not known to be lost.
func (n *Node) sharers() (count int) {
	n.store.Read(func(st *builds.State) {
		st.Nodes(func(node *buildsv1.Node) bool {
			if !node.Lost {
				count++
			}
			return true
		})
	})
	return count
}

func KeptOf(r *imagebuilderv1.CachedRef, keep time.Duration) (registry.Kept, bool) {
	if r.GetDigest() == "" || r.GetRefreshedAt() == nil {
		return registry.Kept{}, false
	}
	age := time.Since(r.RefreshedAt.AsTime())
	return registry.Kept{Digest: r.Digest, SizeBytes: r.SizeBytes, Anonymous: r.Anonymous, Age: max(age, 0)}, age <= keep
}

// leadRefreshes decides, for one term, which node refreshes what.
func (n *Node) leadRefreshes(ctx context.Context, term *cluster.Term) error {
	ctx, cancel := ctxutil.Join(ctx, n.work)
	defer cancel()
	return (&refcache.RefreshLeader{
		Store: n.store, Raft: termAdapter{n.raft, term}, Log: n.log,
		Seed: n.cfg.RefCache.Refs, Interval: time.Duration(n.cfg.RefCache.Interval),
	}).Run(ctx)
}

// refresh resolves the references that the leader gives to this node.
func (n *Node) refresh(ctx context.Context) {
	refreshes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "image_builder_refcache_refreshes_total", Help: "Cached references that this node asked their registries for, by result.",
	}, []string{"result"})
	n.metrics.MustRegister(refreshes)
	for _, result := range []string{"ok", "failed"} {
		refreshes.WithLabelValues(result)
	}
	(&refcache.Refresher{
		Node: n.cfg.Name, Store: n.store, Raft: n.raft, Log: n.log,
		Resolve: n.images.Refresh,
		Told: func(err error) {
			if err != nil {
				refreshes.WithLabelValues("failed").Inc()
			} else {
				refreshes.WithLabelValues("ok").Inc()
			}
		},
	}).Run(ctx)
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
