package refcache

import (
	"context"
	"log/slog"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// Leader assigns cached references that are due to nodes. Only the leader of the cluster runs it,
// for one term. Its decisions are part of the state, so the next leader continues with that state.
type Leader struct {
	Store *builds.Store
	Raft  builds.Raft
	Log   *slog.Logger
	// Seed are the references of the configuration, as written there. Interval is the default
	// refresh interval of the configuration.
	Seed     []string
	Interval time.Duration
	// Now returns the time of the cluster, by which references become due. time.Now if nil.
	Now func() time.Time
}

func (l *Leader) now() time.Time {
	if l.Now == nil {
		return time.Now()
	}
	return l.Now()
}

// Run assigns references until ctx ends, at the end of the term. Then it returns nil.
func (l *Leader) Run(ctx context.Context) error {
	prepared := false
	for ctx.Err() == nil {
		changed := l.Store.CachedChanged()
		var ready bool
		var refs []*imagebuilderv1.CachedRef
		var nodes []*buildsv1.Node
		l.Store.Read(func(st *builds.State) {
			ready = st.RefreshesCache()
			refs = st.CachedRefs()
			st.Nodes(func(n *buildsv1.Node) bool { nodes = append(nodes, n); return true })
		})
		if !ready {
			l.await(ctx, changed, time.Time{})
			continue
		}
		if !prepared {
			err := l.seed(ctx)
			if err == nil {
				err = l.normalise(ctx, refs)
			}
			prepared = l.succeeded(ctx, err)
			continue
		}
		assign, wake := decideRefreshes(refs, nodes, l.now())
		if len(assign) == 0 {
			l.await(ctx, changed, wake)
			continue
		}
		res, _, err := builds.Propose(ctx, l.Raft, &buildsv1.AssignRefreshes{Assignments: assign})
		if l.succeeded(ctx, err) && res.Refs == 0 {
			l.await(ctx, changed, wake)
		}
	}
	return nil
}

// succeeded reports whether a proposal succeeded. If not, it logs the error and blocks for
// retryInterval.
func (l *Leader) succeeded(ctx context.Context, err error) bool {
	if err != nil && ctx.Err() == nil {
		l.Log.Warn("the refresh of cached references cannot commit, will try again", "err", err)
		ctxutil.Sleep(ctx, retryInterval)
	}
	return err == nil
}

// seed adds the configured references to the cache, once in the lifetime of the cluster.
func (l *Leader) seed(ctx context.Context) error {
	cmd := &buildsv1.SeedCache{IntervalNanos: int64(l.Interval)}
	for _, ref := range l.Seed {
		key, err := builds.CacheKey(ref)
		if err != nil {
			l.Log.Error("a reference in refCache.refs cannot be cached; it is ignored", "ref", ref, "err", err)
			continue
		}
		cmd.Refs = append(cmd.Refs, key)
	}
	var done bool
	l.Store.Read(func(st *builds.State) {
		c := st.CacheConfig()
		done = c.GetIntervalNanos() != 0 && (c.GetSeeded() || len(cmd.Refs) == 0)
	})
	if done {
		return nil
	}
	res, _, err := builds.Propose(ctx, l.Raft, cmd)
	if err == nil && res.Refs > 0 {
		l.Log.Info("the references of the configuration were added to the reference cache, once", "refs", res.Refs)
	}
	return err
}

// normalise replaces names that are not normalised. Nodes of version 0.2.0 have stored references
// as they received them.
func (l *Leader) normalise(ctx context.Context, refs []*imagebuilderv1.CachedRef) error {
	for _, r := range refs {
		key, err := builds.CacheKey(r.Ref)
		if err == nil && key == r.Ref {
			continue
		}
		if err == nil {
			if _, _, err := builds.Propose(ctx, l.Raft, &buildsv1.PutCachedRef{Ref: &imagebuilderv1.CachedRef{Ref: key, Interval: r.Interval}}); err != nil {
				return err
			}
		}
		if _, _, err := builds.Propose(ctx, l.Raft, &buildsv1.DeleteCachedRef{Ref: r.Ref}); err != nil {
			return err
		}
	}
	return nil
}

// await blocks until the next change, or until wake if it is not zero, for at most a minute.
func (l *Leader) await(ctx context.Context, changed <-chan struct{}, wake time.Time) {
	d := time.Minute
	if !wake.IsZero() {
		d = min(d, max(wake.Sub(l.now()), time.Millisecond))
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-t.C:
	}
}
