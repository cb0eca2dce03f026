package node

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
)

// contextTagPrefix begins the tags of uploaded contexts in the base repository.
const contextTagPrefix = "context-"

// contextStore stores uploaded build contexts in the base repository, where every node can fetch
// them.
type contextStore struct {
	client     *registry.Client
	repository string
	maxAge     time.Duration // 0: contexts are never deleted
}

var (
	_ api.Contexts      = contextStore{}
	_ buildkit.Contexts = contextStore{}
)

// contextStore returns the store of uploaded contexts. The node must have a registry client.
func (n *Node) contextStore() contextStore {
	return contextStore{n.registry, n.cfg.Orchestrator.BaseImageRepository, time.Duration(n.cfg.BuildKit.ContextAge)}
}

// ref returns the reference of a context by the digest of its content.
func (c contextStore) ref(digest string) string {
	return c.repository + ":" + contextTagPrefix + strings.TrimPrefix(digest, "sha256:")
}

// Exists reports whether a context is stored. The caller is about to build it, so Exists renews the
// time of a context that has reached half of its age limit: it must not be deleted before the build
// begins.
func (c contextStore) Exists(ctx context.Context, digest string) (bool, error) {
	ref := c.ref(digest)
	st, err := c.client.StatFile(ctx, ref, installRights)
	if err == nil && c.maxAge > 0 && time.Since(st.Created) > c.maxAge/2 {
		err = c.client.TouchFile(ctx, ref, installRights)
	}
	switch {
	case err == nil:
		return true, nil
	case registry.KindOf(err) == registry.NotFound:
		return false, nil
	}
	return false, imageError(ref, err)
}

// Put stores the file at path under its digest.
func (c contextStore) Put(ctx context.Context, digest, path string) error {
	if err := c.client.PutFile(ctx, c.ref(digest), path, digest, installRights); err != nil {
		return imageError(c.ref(digest), err)
	}
	return nil
}

// Open returns the content of a stored context. The caller closes it.
func (c contextStore) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	return c.client.OpenFile(ctx, c.ref(digest), installRights)
}

// collect deletes the contexts that are older than maxAge at now and not in use, and returns their
// number.
// used returns the digests in use. collect deletes a manifest by its digest, and renewing a context
// changes that digest. So a context that Exists has renewed for a build that used does not contain
// is not deleted.
func (c contextStore) collect(ctx context.Context, now time.Time, used func() map[string]bool) (n int, err error) {
	tags, err := c.client.Tags(ctx, c.repository, contextTagPrefix, installRights)
	if registry.KindOf(err) == registry.NotFound {
		return 0, nil // the repository does not exist before the first push
	}
	if err != nil {
		return 0, err
	}
	inUse := used()
	for _, tag := range tags {
		digest := "sha256:" + strings.TrimPrefix(tag, contextTagPrefix)
		if inUse[digest] {
			continue
		}
		st, err := c.client.StatFile(ctx, c.repository+":"+tag, installRights)
		switch {
		case registry.KindOf(err) == registry.NotFound, registry.KindOf(err) == registry.Unsupported:
			continue // deleted meanwhile, or not a context
		case err != nil:
			return n, err
		case st.Created.IsZero(): // of a version that stored no time
			if err := c.client.TouchFile(ctx, c.repository+":"+tag, installRights); err != nil {
				return n, err
			}
			continue
		case now.Sub(st.Created) <= c.maxAge:
			continue
		}
		if err := c.client.DeleteManifest(ctx, c.repository+"@"+st.Digest, installRights); err != nil && registry.KindOf(err) != registry.NotFound {
			return n, fmt.Errorf("delete context %s: %w", digest, err)
		}
		n++
	}
	return n, nil
}

// collectContexts deletes uploaded contexts that no build needs, until the term ends. It stops for
// good in this term if the registry forbids deletion.
func (n *Node) collectContexts(ctx context.Context, term *cluster.Term) error {
	store := n.contextStore()
	if store.maxAge <= 0 || len(n.cfg.BuildKit.Addresses) == 0 && !n.cfg.Uses(kubernetes.Name) {
		return nil
	}
	ctx, cancel := ctxutil.Join(ctx, n.work)
	defer cancel()
	for ctxutil.Sleep(ctx, min(store.maxAge/4, time.Hour)) {
		deleted, err := store.collect(ctx, term.Now(), n.contextsInUse)
		if deleted > 0 {
			n.log.Info("deleted uploaded contexts that no build needs", "contexts", deleted)
		}
		switch {
		case ctx.Err() != nil:
		case err != nil && registry.Forbids(err):
			if n.contextsUndeletable.CompareAndSwap(false, true) {
				n.log.Warn("uploaded contexts stay in the registry because it forbids their deletion", "repository", store.repository, "err", err)
			}
			return nil
		case err != nil:
			n.log.Warn("cannot delete uploaded contexts, will try again", "err", err)
		}
	}
	return nil
}

// contextsInUse returns the digests of the contexts of all builds that have not ended.
func (n *Node) contextsInUse() map[string]bool {
	used := map[string]bool{}
	note := func(r *buildsv1.Record) bool {
		if up := r.GetBuild().GetSource().GetDockerfile().GetUpload(); up != nil {
			used[up.GetDigest()] = true
		}
		return true
	}
	view := n.store.View()
	view.Queued(note)
	view.Live(note)
	return used
}
