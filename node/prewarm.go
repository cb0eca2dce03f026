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
func (s *Node) prewarm(ctx context.Context) {
	pulls := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "image_builder_refcache_prewarms_total", Help: "Images of cached references that this node had BuildKit daemons pull, by result.",
	}, []string{"result"})
	seconds := prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "image_builder_refcache_prewarm_seconds", Help: "Time until a BuildKit daemon had the image of a cached reference.",
		Buckets: []float64{.1, .5, 1, 5, 10, 30, 60, 120, 300, 600, 1800},
	})
	s.metrics.MustRegister(pulls, seconds)
	for _, result := range []string{"ok", "failed"} {
		pulls.WithLabelValues(result)
	}
	bk, ok := s.runtimes[buildkit.Name].(*buildkit.Runtime)
	if !ok || s.cfg.RefCache.Prewarm == config.PrewarmNever {
		return
	}
	p := &refcache.Prewarmer{
		Node: s.cfg.Name, Runtime: buildkit.Name, Store: s.store, Log: s.log,
		Observe: func(took time.Duration, err error) {
			if err != nil {
				pulls.WithLabelValues("failed").Inc()
				return
			}
			pulls.WithLabelValues("ok").Inc()
			seconds.Observe(took.Seconds())
		},
	}
	for _, w := range bk.Warmers(s.installCredential) {
		p.Daemons = append(p.Daemons, w)
	}
	p.Run(ctx)
}

// installCredential answers what the cached references are refreshed with.
func (s *Node) installCredential(ctx context.Context, host, repository string) (user, password string, err error) {
	return s.registry.Credential(ctx, host, repository, install)
}
