package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/builds/logs/peer"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/owner"
	"github.com/image-builder-ha/image-builder/tracing"
)

// openParts opens the parts that need no cluster: the sealing keys, the empty state and the registry
// client.
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
	return nil
}

// openCluster locks the data directory, opens everything that proposes or applies commands, and
// opens the cluster last: from then on commands are applied and the leader's work can begin. peer
// is the listener of the peer port; nil for a node that is alone or has Parts.Network. If
// openCluster returns an error, it has closed the cluster.
func (n *Node) openCluster(ctx context.Context, peer net.Listener) (err error) {
	cfg, err := n.clusterConfig(peer)
	if err != nil {
		return err
	}
	if n.cluster, err = cluster.New(cfg); err != nil {
		return err
	}
	if err := n.emptyTempDir(); err != nil {
		return errors.Join(err, n.cluster.Close())
	}
	if err := n.openLogs(); err != nil {
		return errors.Join(err, n.cluster.Close())
	}
	n.raft = raftAdapter{n.cluster}
	if err := n.openRuntimes(); err != nil {
		return errors.Join(err, n.closeRuntimes(), n.cluster.Close())
	}
	n.store.SetHooks(n.hooks())
	n.owner = n.newOwner()
	n.keyring.SetHeldByAll(n.keyHeldByAll)
	n.cluster.Lead(n.lead)
	n.cluster.Lead(n.raiseLevel)
	n.cluster.Lead(n.labelLeader)
	n.cluster.Lead(n.collectContexts)
	n.cluster.Lead(n.reapWorkloads)
	n.cluster.Lead(n.leadRefreshes)
	for _, work := range n.parts.Lead {
		n.cluster.Lead(work)
	}
	n.service = n.newService()
	n.exportState()
	n.exportCache()
	if err := n.cluster.Open(ctx); err != nil {
		return errors.Join(err, n.closeRuntimes()) // Open has closed the cluster
	}
	return nil
}

// openLogs opens the logs of this node. The cluster must exist: it locks the data directory.
func (n *Node) openLogs() (err error) {
	if n.logs, err = peer.Open(peer.Options{
		Node: n.cfg.Name, StoreID: n.cluster.StoreID(), Conn: n.cluster.Conn, State: n.store, Stopping: n.streams, Log: n.log,
		Store: logs.Options{
			Dir:          filepath.Join(n.cfg.DataDir, "logs"),
			MaxBytes:     n.cfg.Logs.MaxBytes,
			SegmentBytes: n.cfg.Logs.SegmentBytes,
			FS:           logs.Watch(n.logFS(), &n.logWrites),
			Logger:       n.log,
			Registerer:   n.metrics,
		},
	}); err != nil {
		return fmt.Errorf("open log store: %w", err)
	}
	n.metrics.MustRegister(n.logs.Copies())
	return nil
}

// closeLogs closes the logs, if they are open.
func (n *Node) closeLogs() error {
	if n.logs == nil {
		return nil
	}
	return n.logs.Close()
}

// emptyTempDir removes the uploads and contexts that a killed process left behind. The data
// directory must be locked.
func (n *Node) emptyTempDir() error {
	if err := os.RemoveAll(n.tempDir()); err != nil {
		n.log.Warn("cannot remove the uploads and contexts of a former process: remove the directory by hand", "dir", n.tempDir(), "err", err)
	}
	if err := os.MkdirAll(n.tempDir(), 0o700); err != nil {
		return fmt.Errorf("create the directory for uploads: %w", err)
	}
	return nil
}

func (n *Node) newOwner() *owner.Owner {
	return owner.New(owner.Options{
		Node: n.cfg.Name, StoreID: n.cluster.StoreID(), Store: n.store, Raft: n.raft, Keyring: n.keyring,
		Logs: n.logs, DamagedLogs: n.logs, ReplaceAfter: time.Duration(n.cfg.Logs.ReplaceAfter), RepairAfter: time.Duration(n.cfg.Logs.RepairAfter),
		FenceTimeout: time.Duration(n.cfg.Logs.FenceTimeout), SealTimeout: time.Duration(n.cfg.Logs.SealTimeout),
		Publisher: n.images, Runtimes: n.runtimes, Log: n.log, Tracer: n.tracing.Tracer(tracing.Scope),
	})
}

// closeRegistry closes the registry client if the node has one.
func (n *Node) closeRegistry() error {
	if n.registry == nil {
		return nil
	}
	return n.registry.Close()
}

// writable returns an error if this process cannot create files in a directory.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("dataDir: this process runs as user %d and cannot write to %s: give the directory to that user, or choose another directory (%w)", os.Getuid(), dir, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
