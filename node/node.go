package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/owner"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds/logs/peer"
	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/scheduler/workload"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs"
	"github.com/image-builder-ha/image-builder/builds/secrets"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/internal/ctxutil"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/scheduler/copy"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/wsmanager"
	"github.com/image-builder-ha/image-builder/tracing"
	"github.com/image-builder-ha/image-builder/tracing/otlp"
)

// server is one node: the only place that wires the parts together.
type server struct {
	cfg     config.Config
	log     *slog.Logger
	metrics *prometheus.Registry
	boot    string

	keyring   *secrets.Keyring
	registry  *registry.Client
	logs      *peer.Logs
	late      lateRefreshes
	store     *builds.Store
	node      *cluster.Node
	raft      raftAdapter
	owner     *owner.Owner
	service   *api.Service
	runtimes  map[string]workload.Runtime
	count     counters
	readiness *readiness
	foreign   *foreign
	tracing   *otlp.Provider // nil: nothing is traced

	// peersAPI connects to Kubernetes for podPeers, once.
	peersAPI func() (kubernetes.Client, error)

	// work ends at the beginning of the shutdown: no more is decided or run.
	work context.Context
	// streams ends when clients are told to go elsewhere.
	streams    context.Context
	endStreams context.CancelFunc
	// stopping is set before all of that.
	stopping atomic.Bool
	// started is set once this process is known to the state.
	started atomic.Bool
	// restoring: a snapshot is being restored, nothing is assigned.
	restoring atomic.Bool
	// drained: an operator had drained this node before it began to leave.
	drained bool
	// contextsStay is set once the registry has refused to delete contexts.
	contextsStay atomic.Bool
}

// Serve runs a node until ctx ends, then stops it in bounded time.
func Serve(ctx context.Context, cfg config.Config, log *slog.Logger) error {
	s := &server{
		cfg: cfg, log: log, metrics: prometheus.NewRegistry(), boot: rand.Text(),
		readiness: &readiness{after: time.Duration(cfg.Ready.After), patience: time.Duration(cfg.Ready.Patience)},
	}
	s.peersAPI = sync.OnceValues(func() (kubernetes.Client, error) { return kubernetes.Connect(cfg.Kubernetes.Kubeconfig, 0, 0) })
	s.streams, s.endStreams = context.WithCancel(context.Background())
	defer s.endStreams()
	s.metrics.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	s.log = countLog(log, s.metrics)
	tellVersion(s.metrics)
	s.count = newCounters(s.metrics)
	s.foreign = newForeign(s.metrics)
	return s.run(ctx)
}

// run opens the parts from the ground up and closes them in reverse.
func (s *server) run(ctx context.Context) (err error) {
	if err := os.MkdirAll(s.cfg.DataDir, 0o700); err != nil {
		return fmt.Errorf("create data directory: %w", err)
	}
	if err := writable(s.cfg.DataDir); err != nil {
		return err
	}
	listeners, err := s.listen()
	if err != nil {
		return err
	}
	defer listeners.close()
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	s.work = work
	if s.tracing, err = s.openTracing(); err != nil {
		return err
	}
	defer s.closeTracing()
	if err := s.openParts(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.logs.Close(), s.registry.Close()) }()
	if err := s.openNode(ctx, listeners.peer); err != nil {
		return err
	}
	defer func() {
		s.logs.StopCopying()
		err = errors.Join(err, s.node.Close(), s.closeRuntimes())
	}()

	var wg sync.WaitGroup
	failed := make(chan error, 8)
	start := func(f func(context.Context) error) {
		wg.Go(func() {
			if err := f(work); err != nil {
				failed <- err
			}
		})
	}
	serving, err := s.serve(listeners, failed)
	if err != nil {
		return err
	}
	start(s.begin)
	start(s.reapLogs)
	start(s.keepLease)
	start(s.watchReadiness)
	start(s.probeLogs)
	start(s.watchForeign)
	start(s.refreshLate)

	select {
	case <-ctx.Done():
		s.log.Info("shutting down", "grace", time.Duration(s.cfg.Shutdown.Grace))
		s.stopping.Store(true)
		s.handOver()
		away := s.scaledAway()
		s.drain(work)
		if away {
			s.leave(work)
		}
	case err = <-failed:
	case err = <-s.node.Fatal():
		s.log.Error("the node has to stop", "err", err)
	}
	stopWork()
	wg.Wait()
	serving.stop(time.Duration(s.cfg.Shutdown.Grace))
	return err
}

// writable reports why files cannot be made in a directory.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".writable-*")
	if err != nil {
		return fmt.Errorf("dataDir: this process, of user %d, cannot write to %s: give the directory to that user, or name another (%w)", os.Getuid(), dir, err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

func (s *server) openParts() (err error) {
	if s.keyring, err = openKeyring(s.cfg, s.log); err != nil {
		return err
	}
	s.store = builds.NewStore()
	o := RegistryOptions(s.cfg, s.log, s.metrics)
	o.Kept, o.Sharers = s.kept, s.sharers
	if s.registry, err = registry.New(o); err != nil {
		return fmt.Errorf("open registry client: %w", err)
	}
	if s.logs, err = peer.Open(peer.Options{
		Node: s.cfg.Name, State: s.store, Stopping: s.streams, Log: s.log,
		Store: logs.Options{
			Dir:          filepath.Join(s.cfg.DataDir, "logs"),
			MaxBytes:     s.cfg.Logs.MaxBytes,
			SegmentBytes: s.cfg.Logs.SegmentBytes,
			FS:           testFS(),
			Logger:       s.log,
			Registerer:   s.metrics,
		},
	}); err != nil {
		return errors.Join(fmt.Errorf("open log store: %w", err), s.registry.Close())
	}
	return nil
}

// tempDir is where uploads and contexts lie while they are used.
func (s *server) tempDir() string { return filepath.Join(s.cfg.DataDir, "tmp") }

func (s *server) openNode(ctx context.Context, peer net.Listener) (err error) {
	cfg, err := s.clusterConfig(peer)
	if err != nil {
		return err
	}
	if s.node, err = cluster.New(cfg); err != nil {
		return err
	}
	// The directory is locked now: what a killed process left behind of uploads
	// and contexts goes.
	if err := os.RemoveAll(s.tempDir()); err != nil {
		s.log.Warn("cannot remove what a former process left of uploads and contexts: remove it by hand", "dir", s.tempDir(), "err", err)
	}
	if err := os.MkdirAll(s.tempDir(), 0o700); err != nil {
		return errors.Join(fmt.Errorf("make room for uploads: %w", err), s.node.Close())
	}
	s.logs.Join(s.node)
	s.metrics.MustRegister(s.logs.Copies())
	s.raft = raftAdapter{s.node}
	adapter := registryAdapter{s.registry}
	s.runtimes = map[string]workload.Runtime{copy.Name: copy.New(adapter)}
	testRuntimes(s.runtimes, copy.Name)
	bk, err := s.openBuildKit()
	if err != nil {
		return errors.Join(err, s.node.Close())
	}
	if bk != nil {
		s.runtimes[buildkit.Name] = bk
	}
	ws, err := s.openWSManager()
	if err != nil {
		return errors.Join(err, s.closeRuntimes(), s.node.Close())
	}
	if ws != nil {
		s.runtimes[wsmanager.Name] = ws
	}
	pods, err := s.openKubernetes()
	if err != nil {
		return errors.Join(err, s.closeRuntimes(), s.node.Close())
	}
	if pods != nil {
		s.runtimes[kubernetes.Name] = pods
	}
	s.store.SetHooks(builds.Hooks{Mine: s.node.Proposed, Created: s.count.created, Ended: s.ended, Published: s.published, Requested: s.registry.Forget})
	s.owner = owner.NewOwner(owner.OwnerOptions{
		Node: s.cfg.Name, StoreID: s.node.StoreID(), Store: s.store, Raft: s.raft, Keyring: s.keyring,
		Logs: s.logs, ReplaceAfter: time.Duration(s.cfg.Logs.ReplaceAfter), RepairAfter: time.Duration(s.cfg.Logs.RepairAfter),
		FenceTimeout: time.Duration(s.cfg.Logs.FenceTimeout),
		Publisher:    adapter, Runtimes: s.runtimes, Log: s.log, Tracer: s.tracing.Tracer(tracing.Scope),
	})
	s.keyring.SetHeldByAll(s.heldByAll)
	s.node.Lead(s.lead)
	s.node.Lead(s.raiseLevel)
	s.node.Lead(s.labelLeader)
	s.node.Lead(s.collectContexts)
	s.node.Lead(s.reap)
	s.node.Lead(s.leadRefreshes)
	s.service = api.NewService(api.ServiceOptions{
		Store: s.store, Raft: s.raft, Registry: adapter, Logs: s.logs,
		Repositories: repositories(s.cfg), Timeout: time.Duration(s.cfg.Builds.Timeout),
		MaxTimeout: time.Duration(s.cfg.Builds.MaxTimeout), LogInfo: s.logInfo(), LeftOff: s.count.leftOff,
		Dockerfiles: s.cfg.Runtimes.Dockerfile != "", Contexts: s.contexts(), TempDir: s.tempDir(), MaxContext: s.cfg.BuildKit.MaxContextBytes, OneTime: s.redeem, Commit: s.commit,
		Waiting: s.waiting, Nodes: s.listNodes,
	})
	s.watchState()
	s.watchCache()
	return s.node.Open(ctx)
}

// closeRuntimes ends the connections of runtimes that have some.
func (s *server) closeRuntimes() (err error) {
	for _, r := range s.runtimes {
		if c, ok := r.(io.Closer); ok {
			err = errors.Join(err, c.Close())
		}
	}
	return err
}

// runtimeOf names the runtime for a source.
func (s *server) runtimeOf(src *imagebuilderv1.Source) string {
	if name := testRuntimeOf(src); name != "" {
		return name
	}
	if src.GetRef() != nil {
		return s.cfg.Runtimes.Ref
	}
	return s.cfg.Runtimes.Dockerfile
}

// begin tells the state that this process runs, which ends the attempts of the
// former one, and then runs the attempts that the leader gives to the node.
func (s *server) begin(ctx context.Context) error {
	if !s.register(ctx) {
		return nil
	}
	s.started.Store(true)
	s.log.Info("node serves", "node", s.cfg.Name, "store", s.node.StoreID())
	var wg sync.WaitGroup
	defer wg.Wait()
	// Not before: turns of the former process are not this one's.
	wg.Go(func() { s.refresh(ctx) })
	wg.Go(func() { s.prewarm(ctx) })
	return s.owner.Run(ctx)
}

// register tells the state about this process, and reports whether it could
// before ctx ended.
func (s *server) register(ctx context.Context) bool {
	for {
		_, _, err := builds.Propose(ctx, s.raft, &buildsv1.NodeStarted{
			Name: s.cfg.Name, StoreId: s.node.StoreID(), BootId: s.boot, Zone: s.cfg.Cluster.Zone,
			Capacity: uint32(s.cfg.Builds.RunningPerNode), Runtimes: slices.Sorted(maps.Keys(s.runtimes)),
		})
		if err == nil {
			return true
		}
		if !ctxutil.Sleep(ctx, 100*time.Millisecond) {
			return false
		}
	}
}
