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
	// prewarmTime is how long one image may take.
	prewarmTime = 30 * time.Minute
	// prewarmFirst and prewarmMax bound the pauses after failures of an image.
	prewarmFirst = 5 * time.Second
	prewarmMax   = 10 * time.Minute
	// prewarmLook is how often a daemon is asked whether its cache is still the
	// one that was filled, prewarmAway the longest pause while it is away.
	prewarmLook = 30 * time.Second
	prewarmAway = time.Minute
	// prewarmGather is how long changes of references are gathered.
	prewarmGather = time.Second
)

// PrewarmDaemon is a daemon that builds pull base images into.
type PrewarmDaemon interface {
	// URL names it in the log.
	URL() string
	// Shared tells that all nodes that build with it reach the same one.
	Shared() bool
	// Cache names what it keeps images in: another name is another cache, and an
	// empty one. It has a time limit of its own.
	Cache(ctx context.Context) (string, error)
	// Pull has it pull and unpack the image of a reference at a digest, with the
	// install's credentials, unless it has it. Its errors may be shown.
	Pull(ctx context.Context, ref, digest string) error
}

// Prewarmer has daemons pull what cached references resolve to, before a build
// needs it: each reference anew when its digest has changed, or the daemon has
// another cache. Of the nodes that share a daemon one does it, which the name of
// the reference picks; another takes over when that one is lost.
//
// It reads the state and asks nobody else: refreshes and builds do not wait for
// it. What a daemon has removed by itself since is not pulled again.
type Prewarmer struct {
	Node string
	// Runtime is the name of the runtime over the daemons: nodes without it have
	// none of them.
	Runtime string
	Store   *builds.Store
	Daemons []PrewarmDaemon
	Log     *slog.Logger
	// Told is called after each pull, nil for nobody.
	Told func(took time.Duration, err error)
}

// Run fills the daemons, each with one image at a time, until ctx is done and
// all pulls have ended.
func (p *Prewarmer) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, d := range p.Daemons {
		wg.Go(func() { (&prewarming{Prewarmer: p, daemon: d, pulled: map[string]pulled{}}).run(ctx) })
	}
	wg.Wait()
}

// prewarming is the work on one daemon.
type prewarming struct {
	*Prewarmer
	daemon PrewarmDaemon
	cache  string            // "" until the daemon has answered
	pulled map[string]pulled // by reference
	askAt  time.Time         // when the daemon is asked for its cache again
	misses int               // questions in a row that it did not answer
}

// pulled is what came of a reference on one daemon.
type pulled struct {
	digest   string
	failures int       // 0: the daemon has it
	again    time.Time // after a failure
}

func (w *prewarming) run(ctx context.Context) {
	for ctx.Err() == nil {
		changed := w.Store.CachedChanged()
		if !time.Now().Before(w.askAt) {
			w.ask(ctx)
		}
		if w.misses > 0 {
			ctxutil.Sleep(ctx, time.Until(w.askAt))
			continue
		}
		want := w.wanted()
		maps.DeleteFunc(w.pulled, func(ref string, _ pulled) bool { return want[ref] == "" })
		ref, wake := decidePrewarm(want, w.pulled, time.Now())
		if ref != "" {
			w.pull(ctx, ref, want[ref])
			continue
		}
		if wake.IsZero() || w.askAt.Before(wake) {
			wake = w.askAt
		}
		t := time.NewTimer(time.Until(wake))
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-changed:
			ctxutil.Sleep(ctx, prewarmGather)
		}
		t.Stop()
	}
}

// ask finds out whether the daemon answers, and whether it still has what was
// pulled.
func (w *prewarming) ask(ctx context.Context) {
	cache, err := w.daemon.Cache(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		if w.misses == 0 {
			w.Log.Warn("a BuildKit daemon does not answer; images of cached references are pulled into it once it does", "daemon", w.daemon.URL(), "err", err)
		}
		w.misses++
		w.askAt = time.Now().Add(backOff(w.misses, time.Second, prewarmAway))
	default:
		if w.misses > 0 {
			w.Log.Info("a BuildKit daemon answers again", "daemon", w.daemon.URL())
		}
		if cache != w.cache {
			clear(w.pulled)
		}
		w.cache, w.misses, w.askAt = cache, 0, time.Now().Add(prewarmLook)
	}
}

func (w *prewarming) pull(ctx context.Context, ref, digest string) {
	limit, cancel := context.WithTimeout(ctx, prewarmTime)
	defer cancel()
	begin := time.Now()
	err := w.daemon.Pull(limit, ref, digest)
	if ctx.Err() != nil {
		return // the process ends; that is no failure of the image
	}
	took := time.Since(begin)
	if w.Told != nil {
		w.Told(took, err)
	}
	now := pulled{digest: digest}
	if err == nil {
		w.Log.Info("a BuildKit daemon has the image of a cached reference", "ref", ref, "digest", digest, "daemon", w.daemon.URL(), "took", took)
	} else {
		if before := w.pulled[ref]; before.digest == digest {
			now.failures = before.failures
		}
		now.failures++
		pause := backOff(now.failures, prewarmFirst, prewarmMax)
		now.again = time.Now().Add(pause)
		w.askAt = time.Now() // it may be the daemon
		w.Log.Warn("cannot pull the image of a cached reference into a BuildKit daemon, will try again; builds from it pull by themselves",
			"ref", ref, "digest", digest, "daemon", w.daemon.URL(), "failures", now.failures, "again_in", pause, "err", err)
	}
	w.pulled[ref] = now
}

// wanted answers the digests of the references that this node sees to, by
// reference.
func (w *prewarming) wanted() map[string]string {
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
	names := refreshers(nodes)
	want := map[string]string{}
	for _, r := range refs {
		if r.Digest != "" && (!w.daemon.Shared() || closest(names, r.Ref) == w.Node) {
			want[r.Ref] = r.Digest
		}
	}
	return want
}

// closest answers the node that a reference's name picks (rendezvous), "" for
// none.
func closest(nodes []string, ref string) (best string) {
	var weight uint64
	for _, n := range nodes {
		if w := affinity(n, ref); best == "" || w > weight {
			best, weight = n, w
		}
	}
	return best
}

// decidePrewarm answers the reference to be pulled next, or "" and when there
// is one if nothing changes, zero for never. What was not tried yet at its
// digest goes first. It is pure.
func decidePrewarm(want map[string]string, before map[string]pulled, now time.Time) (next string, wake time.Time) {
	var at time.Time
	for ref, digest := range want {
		var due time.Time
		if b := before[ref]; b.digest == digest {
			if b.failures == 0 {
				continue
			}
			due = b.again
		}
		if due.After(now) {
			if wake.IsZero() || due.Before(wake) {
				wake = due
			}
			continue
		}
		if c := due.Compare(at); next == "" || c < 0 || c == 0 && ref < next {
			next, at = ref, due
		}
	}
	return next, wake
}

// backOff is the pause after the nth failure in a row.
func backOff(n int, first, most time.Duration) time.Duration {
	return min(first<<min(n-1, 16), most)
}
