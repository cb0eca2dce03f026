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

func KeptOf(r *imagebuilderv1.CachedRef, keep time.Duration) (registry.Kept, bool) {
	if r.GetDigest() == "" || r.GetRefreshedAt() == nil {
		return registry.Kept{}, false
	}
	age := time.Since(r.RefreshedAt.AsTime())
	return registry.Kept{Digest: r.Digest, SizeBytes: r.SizeBytes, Anonymous: r.Anonymous, Age: max(age, 0)}, age <= keep
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

// prewarm has the BuildKit daemons pull the images of cached references, if the
// configuration wants that.
func (n *Node) prewarm(ctx context.Context) {
	pulls := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "image_builder_refcache_prewarms_total", Help: "Images of cached references that this node had BuildKit daemons pull, by result.",
	}, []string{"result"})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "image_builder_refcache_prewarm_seconds", Help: "Time until a BuildKit daemon had the image of a cached reference.",
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
		Told: func(took time.Duration, err error) {
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
