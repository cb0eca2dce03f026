package node

import (
	"context"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/refcache"

	"github.com/image-builder-ha/image-builder/config"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
)

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

// installCredential answers what the cached references are refreshed with.
func (n *Node) installCredential(ctx context.Context, host, repository string) (user, password string, err error) {
	return n.registry.Credential(ctx, host, repository, installRights)
}
