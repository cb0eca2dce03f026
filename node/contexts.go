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

// contextTag begins the tags of uploaded contexts in the base repository.
const contextTagPrefix = "context-"

// contextStore keeps uploaded contexts in the base repository, where every
// node can fetch them.
type contextStore struct {
	client     *registry.Client
	repository string
	maxAge     time.Duration // 0 for ever
}

var (
	_ api.Contexts      = contextStore{}
	_ buildkit.Contexts = contextStore{}
)

func (n *Node) contextStore() contextStore {
	return contextStore{n.registry, n.cfg.Orchestrator.BaseImageRepository, time.Duration(n.cfg.BuildKit.ContextAge)}
}

func (c contextStore) ref(digest string) string {
	return c.repository + ":" + contextTagPrefix + strings.TrimPrefix(digest, "sha256:")
}

// Exists reports whether a context is stored. Who asks wants to build it: one
// that is about to be collected is made young again, so that it is still there
// when the build begins.
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

// Put stores the file at path.
func (c contextStore) Put(ctx context.Context, digest, path string) error {
	if err := c.client.PutFile(ctx, c.ref(digest), path, digest, installRights); err != nil {
		return imageError(c.ref(digest), err)
	}
	return nil
}

// Open streams a stored context.
func (c contextStore) Open(ctx context.Context, digest string) (io.ReadCloser, error) {
	return c.client.OpenFile(ctx, c.ref(digest), installRights)
}

// collect deletes the contexts that are older than they are kept, except those
// that are used, and answers how many. It tells by digest what to delete: one
// that is made young meanwhile has another, so that builds which are created
// after used was asked lose nothing.
func (c contextStore) collect(ctx context.Context, used func() map[string]bool) (n int, err error) {
	tags, err := c.client.Tags(ctx, c.repository, contextTagPrefix, installRights)
	if registry.KindOf(err) == registry.NotFound {
		return 0, nil // nothing was ever pushed there
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
			continue // gone, or not ours
		case err != nil:
			return n, err
		case st.Created.IsZero(): // from before contexts told their age
			if err := c.client.TouchFile(ctx, c.repository+":"+tag, installRights); err != nil {
				return n, err
			}
			continue
		case time.Since(st.Created) <= c.maxAge:
			continue
		}
		if err := c.client.DeleteManifest(ctx, c.repository+"@"+st.Digest, installRights); err != nil && registry.KindOf(err) != registry.NotFound {
			return n, fmt.Errorf("delete context %s: %w", digest, err)
		}
		n++
	}
	return n, nil
}

// collectContexts deletes uploaded contexts that nobody needs any more, for one
// term.
func (n *Node) collectContexts(ctx context.Context, _ *cluster.Term) error {
	store := n.contextStore()
	if store.maxAge <= 0 || len(n.cfg.BuildKit.Addresses) == 0 && !n.cfg.Uses(kubernetes.Name) {
		return nil
	}
	ctx, cancel := ctxutil.Join(ctx, n.work)
	defer cancel()
	for ctxutil.Sleep(ctx, min(store.maxAge/4, time.Hour)) {
		deleted, err := store.collect(ctx, n.contextsInUse)
		if deleted > 0 {
			n.log.Info("deleted uploaded contexts that no build needs any more", "contexts", deleted)
		}
		switch {
		case ctx.Err() != nil:
		case err != nil && registry.Forbids(err):
			if n.contextsUndeletable.CompareAndSwap(false, true) {
				n.log.Warn("uploaded contexts stay in the registry, which forbids to delete them", "repository", store.repository, "err", err)
			}
			return nil
		case err != nil:
			n.log.Warn("cannot delete uploaded contexts, will try again", "err", err)
		}
	}
	return nil
}

// contextsInUse answers the contexts of all builds that have not ended.
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
