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

// RefreshLeader decides which node resolves which cached reference when. Only
// the leader runs it, for one term: what it has decided is in the state, so
// that its successor goes on from there.
type RefreshLeader struct {
	Store *builds.Store
	Raft  builds.Raft
	Log   *slog.Logger
	// Seed are the references of the configuration, as written there, Interval
	// the default that goes with them.
	Seed     []string
	Interval time.Duration
}

// Run decides and commits until ctx, which ends with the leader's term, is
// done. It returns nil then.
func (l *RefreshLeader) Run(ctx context.Context) error {
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
				err = l.rename(ctx, refs)
			}
			prepared = l.did(ctx, err)
			continue
		}
		assign, wake := decideRefreshes(refs, nodes, time.Now())
		if len(assign) == 0 {
			l.await(ctx, changed, wake)
			continue
		}
		res, _, err := builds.Propose(ctx, l.Raft, &buildsv1.AssignRefreshes{Assignments: assign})
		if l.did(ctx, err) && res.Refs == 0 {
			l.await(ctx, changed, wake)
		}
	}
	return nil
}

// did rests after a proposal that failed.
func (l *RefreshLeader) did(ctx context.Context, err error) bool {
	if err != nil && ctx.Err() == nil {
		l.Log.Warn("the refresher of references cannot commit, will try again", "err", err)
		ctxutil.Sleep(ctx, retryInterval)
	}
	return err == nil
}

// seed puts the configured references into the cache, once in the cluster's
// life.
func (l *RefreshLeader) seed(ctx context.Context) error {
	cmd := &buildsv1.SeedCache{IntervalNanos: int64(l.Interval)}
	for _, ref := range l.Seed {
		key, err := builds.CacheKey(ref)
		if err != nil {
			l.Log.Error("refCache.refs names what cannot be cached; it is left out", "ref", ref, "err", err)
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
		l.Log.Info("the reference cache was filled from the configuration, once", "refs", res.Refs)
	}
	return err
}

// rename normalises the names that nodes of version 0.2.0 have stored as they
// were given.
func (l *RefreshLeader) rename(ctx context.Context, refs []*imagebuilderv1.CachedRef) error {
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

// await returns at the next change, or when the decision named a time.
func (l *RefreshLeader) await(ctx context.Context, changed <-chan struct{}, wake time.Time) {
	d := time.Minute
	if !wake.IsZero() {
		d = min(d, max(time.Until(wake), time.Millisecond))
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-t.C:
	}
}
