package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/builds/logs/peer"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/owner"
	"github.com/image-builder-ha/image-builder/tracing"
)

func (n *Node) openParts() (err error) {
	if n.keyring, err = openKeyring(n.cfg, n.log); err != nil {
		return err
	}
	n.store = builds.NewStore()
	if n.images = n.parts.Images; n.images == nil {
		o := RegistryOptions(n.cfg, n.log, n.metrics)
		o.Kept, o.Sharers = n.kept, n.sharers
		if n.registry, err = registry.New(o); err != nil {
			return fmt.Errorf("open registry client: %w", err)
		}
		n.images = registryAdapter{n.registry}
	}
	if n.logs, err = peer.Open(peer.Options{
		Node: n.cfg.Name, State: n.store, Stopping: n.streams, Log: n.log,
		Store: logs.Options{
			Dir:          filepath.Join(n.cfg.DataDir, "logs"),
			MaxBytes:     n.cfg.Logs.MaxBytes,
			SegmentBytes: n.cfg.Logs.SegmentBytes,
			FS:           n.parts.LogFS,
			Logger:       n.log,
			Registerer:   n.metrics,
		},
	}); err != nil {
		return errors.Join(fmt.Errorf("open log store: %w", err), n.closeRegistry())
	}
	return nil
}

func (n *Node) openCluster(ctx context.Context, peer net.Listener) (err error) {
	cfg, err := n.clusterConfig(peer)
	if err != nil {
		return err
	}
	if n.cluster, err = cluster.New(cfg); err != nil {
		return err
	}
	// The directory is locked now: what a killed process left behind of uploads
	// and contexts goes.
	if err := os.RemoveAll(n.tempDir()); err != nil {
		n.log.Warn("cannot remove what a former process left of uploads and contexts: remove it by hand", "dir", n.tempDir(), "err", err)
	}
	if err := os.MkdirAll(n.tempDir(), 0o700); err != nil {
		return errors.Join(fmt.Errorf("make room for uploads: %w", err), n.cluster.Close())
	}
	n.logs.Join(n.cluster)
	n.metrics.MustRegister(n.logs.Copies())
	n.raft = raftAdapter{n.cluster}
	if err := n.openRuntimes(); err != nil {
		return errors.Join(err, n.closeRuntimes(), n.cluster.Close())
	}
	n.store.Count(builds.Tally{Mine: n.cluster.Proposed, Created: n.counters.created, Ended: n.ended, Published: n.published, Requested: n.images.Forget})
	n.owner = owner.NewOwner(owner.OwnerOptions{
		Node: n.cfg.Name, StoreID: n.cluster.StoreID(), Store: n.store, Raft: n.raft, Keyring: n.keyring,
		Logs: n.logs, ReplaceAfter: time.Duration(n.cfg.Logs.ReplaceAfter), RepairAfter: time.Duration(n.cfg.Logs.RepairAfter),
		FenceTimeout: time.Duration(n.cfg.Logs.FenceTimeout),
		Publisher:    n.images, Runtimes: n.runtimes, Log: n.log, Tracer: n.tracing.Tracer(tracing.Scope),
	})
	n.keyring.Held(n.keyHeldByAll)
	n.cluster.Lead(n.lead)
	n.cluster.Lead(n.raiseLevel)
	n.cluster.Lead(n.labelLeader)
	n.cluster.Lead(n.collectContexts)
	n.cluster.Lead(n.reapWorkloads)
	n.cluster.Lead(n.leadRefreshes)
	for _, work := range n.parts.Lead {
		n.cluster.Lead(work)
	}
	so := api.ServiceOptions{
		Store: n.store, Raft: n.raft, Registry: n.images, Logs: n.logs,
		Repositories: repositories(n.cfg), Timeout: time.Duration(n.cfg.Builds.Timeout),
		MaxTimeout: time.Duration(n.cfg.Builds.MaxTimeout), LogInfo: n.logInfo(), LeftOff: n.counters.leftOff,
		Dockerfiles: n.cfg.Runtimes.Dockerfile != "", TempDir: n.tempDir(), MaxContext: n.cfg.BuildKit.MaxContextBytes, OneTime: n.redeemOneTimeURL,
		Waiting: n.waiting, Nodes: n.listNodes,
	}
	if n.registry != nil {
		so.Contexts, so.Commit = n.contextStore(), n.resolveCommit
	}
	n.service = api.NewService(so)
	n.exportState()
	n.exportCache()
	return n.cluster.Open(ctx)
}

// closeRegistry closes the registry client, if there is one.
func (n *Node) closeRegistry() error {
	if n.registry == nil {
		return nil
	}
	return n.registry.Close()
}

// writable reports why files cannot be made in a directory.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("dataDir: this process, of user %d, cannot write to %s: give the directory to that user, or name another (%w)", os.Getuid(), dir, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
