package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/copy"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/builds/logs/peer"
	"github.com/image-builder-ha/image-builder/cluster"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/owner"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
	"github.com/image-builder-ha/image-builder/tracing"
)

func (s *Node) openParts() (err error) {
	if s.keyring, err = openKeyring(s.cfg, s.log); err != nil {
		return err
	}
	s.store = builds.NewStore()
	if s.images = s.parts.Images; s.images == nil {
		o := RegistryOptions(s.cfg, s.log, s.metrics)
		o.Kept, o.Sharers = s.kept, s.sharers
		if s.registry, err = registry.New(o); err != nil {
			return fmt.Errorf("open registry client: %w", err)
		}
		s.images = registryAdapter{s.registry}
	}
	return nil
}

// openLogs opens the logs of this node, whose cluster node exists already.
func (s *Node) openLogs() (err error) {
	if s.logs, err = peer.Open(peer.Options{
		Node: s.cfg.Name, StoreID: s.cluster.StoreID(), Conn: s.cluster.Conn, State: s.store, Stopping: s.streams, Log: s.log,
		Store: logs.Options{
			Dir:          filepath.Join(s.cfg.DataDir, "logs"),
			MaxBytes:     s.cfg.Logs.MaxBytes,
			SegmentBytes: s.cfg.Logs.SegmentBytes,
			FS:           s.parts.LogFS,
			Logger:       s.log,
			Registerer:   s.metrics,
		},
	}); err != nil {
		return fmt.Errorf("open log store: %w", err)
	}
	s.metrics.MustRegister(s.logs.Copies())
	return nil
}

// closeLogs closes the logs if they are open.
func (s *Node) closeLogs() error {
	if s.logs == nil {
		return nil
	}
	return s.logs.Close()
}

// tempDir is where uploads and contexts lie while they are used.
func (s *Node) tempDir() string { return filepath.Join(s.cfg.DataDir, "tmp") }

func (s *Node) openCluster(ctx context.Context, peer net.Listener) (err error) {
	cfg, err := s.clusterConfig(peer)
	if err != nil {
		return err
	}
	if s.cluster, err = cluster.New(cfg); err != nil {
		return err
	}
	// The directory is locked now: what a killed process left behind of uploads
	// and contexts goes.
	if err := os.RemoveAll(s.tempDir()); err != nil {
		s.log.Warn("cannot remove what a former process left of uploads and contexts: remove it by hand", "dir", s.tempDir(), "err", err)
	}
	if err := os.MkdirAll(s.tempDir(), 0o700); err != nil {
		return errors.Join(fmt.Errorf("make room for uploads: %w", err), s.cluster.Close())
	}
	if err := s.openLogs(); err != nil {
		return errors.Join(err, s.cluster.Close())
	}
	s.raft = raftAdapter{s.cluster}
	if err := s.openRuntimes(); err != nil {
		return errors.Join(err, s.closeRuntimes(), s.cluster.Close())
	}
	s.store.SetHooks(builds.Hooks{Mine: s.cluster.Proposed, Created: s.count.created, Ended: s.ended, Published: s.published, Requested: s.images.Forget})
	s.owner = owner.New(owner.Options{
		Node: s.cfg.Name, StoreID: s.cluster.StoreID(), Store: s.store, Raft: s.raft, Keyring: s.keyring,
		Logs: s.logs, DamagedLogs: s.logs, ReplaceAfter: time.Duration(s.cfg.Logs.ReplaceAfter), RepairAfter: time.Duration(s.cfg.Logs.RepairAfter),
		FenceTimeout: time.Duration(s.cfg.Logs.FenceTimeout),
		Publisher:    s.images, Runtimes: s.runtimes, Log: s.log, Tracer: s.tracing.Tracer(tracing.Scope),
	})
	s.keyring.SetHeldByAll(s.heldByAll)
	s.cluster.Lead(s.lead)
	s.cluster.Lead(s.raiseLevel)
	s.cluster.Lead(s.labelLeader)
	s.cluster.Lead(s.collectContexts)
	s.cluster.Lead(s.reap)
	s.cluster.Lead(s.leadRefreshes)
	for _, work := range s.parts.Lead {
		s.cluster.Lead(work)
	}
	so := api.ServiceOptions{
		Store: s.store, Raft: s.raft, Registry: s.images, Logs: s.logs,
		Repositories: repositories(s.cfg), Timeout: time.Duration(s.cfg.Builds.Timeout),
		MaxTimeout: time.Duration(s.cfg.Builds.MaxTimeout), LogInfo: s.logInfo(), LeftOff: s.count.leftOff,
		Dockerfiles: s.cfg.Runtimes.Dockerfile != "", TempDir: s.tempDir(), MaxContext: s.cfg.BuildKit.MaxContextBytes, OneTime: s.redeem,
		Waiting: s.waiting, Nodes: s.listNodes,
	}
	if s.registry != nil {
		so.Contexts, so.Commit = s.contexts(), s.commit
	}
	s.service = api.NewService(so)
	s.watchState()
	s.watchCache()
	return s.cluster.Open(ctx)
}

// openRuntimes opens the runtimes that the configuration names.
func (s *Node) openRuntimes() error {
	if s.runtimes = s.parts.Runtimes; s.runtimes != nil {
		return nil
	}
	s.runtimes = map[string]workload.Runtime{copy.Name: copy.New(registryAdapter{s.registry})}
	testRuntimes(s.runtimes, copy.Name)
	bk, err := s.openBuildKit()
	if err != nil {
		return err
	}
	if bk != nil {
		s.runtimes[buildkit.Name] = bk
	}
	ws, err := s.openWSManager()
	if err != nil {
		return err
	}
	if ws != nil {
		s.runtimes[wsmanager.Name] = ws
	}
	pods, err := s.openKubernetes()
	if err != nil {
		return err
	}
	if pods != nil {
		s.runtimes[kubernetes.Name] = pods
	}
	return nil
}

// closeRegistry closes the registry client, if there is one.
func (s *Node) closeRegistry() error {
	if s.registry == nil {
		return nil
	}
	return s.registry.Close()
}

// closeRuntimes ends the connections of runtimes that have some.
func (s *Node) closeRuntimes() (err error) {
	for _, r := range s.runtimes {
		if c, ok := r.(io.Closer); ok {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}

// runtimeOf names the runtime for a source.
func (s *Node) runtimeOf(src *imagebuilderv1.Source) string {
	if s.parts.RuntimeOf != nil {
		return s.parts.RuntimeOf(src)
	}
	if name := testRuntimeOf(src); name != "" {
		return name
	}
	if src.GetRef() != nil {
		return s.cfg.Runtimes.Ref
	}
	return s.cfg.Runtimes.Dockerfile
}

// writable reports why files cannot be made in a directory.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("dataDir: this process, of user %d, cannot write to %s: give the directory to that user, or name another (%w)", os.Getuid(), dir, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}
