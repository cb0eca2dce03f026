package refcache

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

const (
	// pullTimeout limits the pull of one image.
	pullTimeout = 30 * time.Minute
	// minPullPause and maxPullPause limit the pauses after failures of an image.
	minPullPause = 5 * time.Second
	maxPullPause = 10 * time.Minute
	// cacheInterval is the time between checks whether a daemon still has the same cache.
	cacheInterval = 30 * time.Second
	// minAwayPause and maxAwayPause limit the pauses between checks while a daemon does not
	// respond.
	minAwayPause = time.Second
	maxAwayPause = time.Minute
	// changeDelay is how long changes of references are collected.
	changeDelay = time.Second
)

// Daemon is a daemon that pulls base images for builds.
type Daemon interface {
	// URL returns the address of the daemon, for the log.
	URL() string
	// Shared reports whether other nodes use the same daemon.
	Shared() bool
	// Cache returns the name of the daemon's image cache. Another name means another cache, which
	// is empty. Cache has a time limit of its own.
	Cache(ctx context.Context) (string, error)
	// Pull makes the daemon pull and unpack the image of a reference at a digest, unless it has it.
	// It uses the credentials of the install. Its errors contain no secrets.
	Pull(ctx context.Context, ref, digest string) error
}

// Prewarmer makes daemons pull the images of cached references before a build needs them. It pulls
// an image again when its digest changes or the daemon has another cache. If nodes share a daemon,
// one of them pulls each image. Another node takes over when that node is lost.
//
// The Prewarmer only reads the state. Refreshes and builds do not wait for it. It does not pull an
// image again that the daemon has removed.
type Prewarmer struct {
	Node string
	// Runtime is the name of the runtime that uses the daemons. Nodes without this runtime do not
	// use them.
	Runtime string
	Store   *builds.Store
	Daemons []Daemon
	Log     *slog.Logger
	// Observe is called after each pull. May be nil.
	Observe func(took time.Duration, err error)
}

// Run pulls images into the daemons, one at a time into each, until ctx ends and all pulls have
// ended.
func (p *Prewarmer) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, d := range p.Daemons {
		wg.Go(func() { (&daemonLoop{Prewarmer: p, daemon: d, pulls: map[string]pull{}}).run(ctx) })
	}
	wg.Wait()
}

// daemonLoop pulls images into one daemon.
type daemonLoop struct {
	*Prewarmer
	daemon Daemon
	// cache is the name of the daemon's cache, or "" if the daemon has not responded yet.
	cache string
	// pulls has the last pull of each reference.
	pulls    map[string]pull
	checkAt  time.Time // of the next check of the cache
	failures int       // of checks, in a row
}

func (w *daemonLoop) run(ctx context.Context) {
	for ctx.Err() == nil {
		changed := w.Store.CachedChanged()
		if !time.Now().Before(w.checkAt) {
			w.checkCache(ctx)
		}
		if w.failures > 0 {
			ctxutil.Sleep(ctx, time.Until(w.checkAt))
			continue
		}
		want := w.wanted()
		maps.DeleteFunc(w.pulls, func(ref string, _ pull) bool { return want[ref] == "" })
		ref, wake := decidePrewarm(want, w.pulls, time.Now())
		if ref != "" {
			w.pull(ctx, ref, want[ref])
			continue
		}
		if wake.IsZero() || w.checkAt.Before(wake) {
			wake = w.checkAt
		}
		t := time.NewTimer(time.Until(wake))
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-changed:
			ctxutil.Sleep(ctx, changeDelay)
		}
		t.Stop()
	}
}

// checkCache checks whether the daemon responds and still has the images that were pulled.
func (w *daemonLoop) checkCache(ctx context.Context) {
	cache, err := w.daemon.Cache(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		if w.failures == 0 {
			w.Log.Warn("a BuildKit daemon does not respond; images of cached references are pulled into it once it does", "daemon", w.daemon.URL(), "err", err)
		}
		w.failures++
		w.checkAt = time.Now().Add(backOff(w.failures, minAwayPause, maxAwayPause))
	default:
		if w.failures > 0 {
			w.Log.Info("a BuildKit daemon responds again", "daemon", w.daemon.URL())
		}
		if cache != w.cache {
			clear(w.pulls)
		}
		w.cache, w.failures, w.checkAt = cache, 0, time.Now().Add(cacheInterval)
	}
}

// pull pulls one image and records the result.
func (w *daemonLoop) pull(ctx context.Context, ref, digest string) {
	limited, cancel := context.WithTimeout(ctx, pullTimeout)
	defer cancel()
	begin := time.Now()
	err := w.daemon.Pull(limited, ref, digest)
	if ctx.Err() != nil {
		return // the process ends, which is no failure of the image
	}
	took := time.Since(begin)
	if w.Observe != nil {
		w.Observe(took, err)
	}
	now := pull{digest: digest}
	if err == nil {
		w.Log.Info("a BuildKit daemon has the image of a cached reference", "ref", ref, "digest", digest, "daemon", w.daemon.URL(), "took", took)
	} else {
		if before := w.pulls[ref]; before.digest == digest {
			now.failures = before.failures
		}
		now.failures++
		pause := backOff(now.failures, minPullPause, maxPullPause)
		now.retryAt = time.Now().Add(pause)
		w.checkAt = time.Now() // the daemon may be the cause
		w.Log.Warn("cannot pull the image of a cached reference into a BuildKit daemon, will try again; builds that need it pull it themselves",
			"ref", ref, "digest", digest, "daemon", w.daemon.URL(), "failures", now.failures, "again_in", pause, "err", err)
	}
	w.pulls[ref] = now
}

// wanted returns the digests of the images that this node must pull into the daemon, by reference.
func (w *daemonLoop) wanted() map[string]string {
	var refs []*imagebuilderv1.CachedRef
	var nodes []*buildsv1.Node
	w.Store.Read(func(st *builds.State) {
		refs = st.CachedRefs()
		st.Nodes(func(n *buildsv1.Node) bool {
			if slices.Contains(n.Runtimes, w.Runtime) {
				nodes = append(nodes, n)
			}
			return true
		})
	})
	names := usableNodes(nodes)
	want := map[string]string{}
	for _, r := range refs {
		if r.Digest != "" && (!w.daemon.Shared() || closest(names, r.Ref) == w.Node) {
			want[r.Ref] = r.Digest
		}
	}
	return want
}
