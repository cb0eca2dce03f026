package node

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/scheduler/refcache"
)

// kept returns the digest of a cached reference from the replicated state. It returns false if the
// reference has not been refreshed for its interval and refCache.keepFor.
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

// KeptOf converts a cached reference to the type of the registry client. It returns false if the
// reference has no digest, or was last refreshed longer ago than maxAge.
func KeptOf(r *imagebuilderv1.CachedRef, maxAge time.Duration) (registry.Kept, bool) {
	if r.GetDigest() == "" || r.GetRefreshedAt() == nil {
		return registry.Kept{}, false
	}
	age := time.Since(r.RefreshedAt.AsTime())
	return registry.Kept{Digest: r.Digest, SizeBytes: r.SizeBytes, Anonymous: r.Anonymous, Age: max(age, 0)}, age <= maxAge
}

// sharers returns the number of nodes that share the limits of registry hosts: all that are not
// lost.
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

// leadRefreshes assigns the refreshes of cached references to nodes, until the term ends.
func (n *Node) leadRefreshes(ctx context.Context, term *cluster.Term) error {
	ctx, cancel := ctxutil.Join(ctx, n.work)
	defer cancel()
	return (&refcache.Leader{
		Store: n.store, Raft: termAdapter{n.raft, term}, Log: n.log,
		Seed: n.cfg.RefCache.Refs, Interval: time.Duration(n.cfg.RefCache.Interval), Now: term.Now,
	}).Run(ctx)
}

// refresh refreshes the references that the leader assigns to this node, until ctx ends.
func (n *Node) refresh(ctx context.Context) {
	refreshes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "image_builder_refcache_refreshes_total", Help: "Refreshes of cached references by this node, by result.",
	}, []string{"result"})
	n.metrics.MustRegister(refreshes)
	for _, result := range []string{"ok", "failed"} {
		refreshes.WithLabelValues(result)
	}
	(&refcache.Refresher{
		Node: n.cfg.Name, Store: n.store, Raft: n.raft, Log: n.log,
		Resolve: n.images.Refresh,
		Observe: func(err error) {
			if err != nil {
				refreshes.WithLabelValues("failed").Inc()
			} else {
				refreshes.WithLabelValues("ok").Inc()
			}
		},
	}).Run(ctx)
}

// prewarm lets BuildKit daemons pull the images of cached references, until ctx ends. It only
// registers the metrics if refCache.prewarm is off or there are no daemons.
func (n *Node) prewarm(ctx context.Context) {
	pulls := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "image_builder_refcache_prewarms_total", Help: "Images of cached references that BuildKit daemons pulled for this node, by result.",
	}, []string{"result"})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "image_builder_refcache_prewarm_seconds", Help: "Time in seconds that a BuildKit daemon took to pull the image of a cached reference.",
		Buckets: []float64{.1, .5, 1, 5, 10, 30, 60, 120, 300, 600, 1800},
	})
	n.metrics.MustRegister(pulls, seconds)
	for _, result := range []string{"ok", "failed"} {
		pulls.WithLabelValues(result)
	}
	bk, ok := n.runtimes[buildkit.Name].(*buildkit.Runtime)
	if !ok || n.cfg.RefCache.Prewarm == config.PrewarmNever {
		return
	}
	p := &refcache.Prewarmer{
		Node: n.cfg.Name, Runtime: buildkit.Name, Store: n.store, Log: n.log,
		Observe: func(took time.Duration, err error) {
			if err != nil {
				pulls.WithLabelValues("failed").Inc()
				return
			}
			pulls.WithLabelValues("ok").Inc()
			seconds.Observe(took.Seconds())
		},
	}
	for _, w := range bk.Warmers(n.installCredential) {
		p.Daemons = append(p.Daemons, w)
	}
	p.Run(ctx)
}
