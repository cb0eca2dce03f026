package node

import (
	"context"
	"crypto/rand"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs/peer"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/owner"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
	"github.com/image-builder-ha/image-builder/tracing/otlp"
)

// Node is one running node of the service. It is the only place where the parts of the service are
// put together.
type Node struct {
	cfg     config.Config
	parts   Parts
	log     *slog.Logger
	metrics *prometheus.Registry
	bootID  string // the random id of this process

	keyring   *builds.Keyring
	images    Images
	registry  *registry.Client // nil if Parts.Images is set
	logs      *peer.Logs
	delayed   delayedRefreshes
	store     *builds.Store
	cluster   *cluster.Node
	raft      raftAdapter
	owner     *owner.Owner
	service   *api.Service
	runtimes  map[string]workload.Runtime
	counters  counters
	readiness *readiness
	foreign   *foreignWorkspaces
	tracing   *otlp.Provider // nil: nothing is traced

	// peersAPI connects to Kubernetes for podPeers, once.
	peersAPI func() (kubernetes.Client, error)

	// work ends when the shutdown begins to stop what runs: afterwards nothing is decided or run.
	work context.Context
	// streams ends when clients have to continue on another node.
	streams    context.Context
	endStreams context.CancelFunc
	// opened is closed once the node is open: the accessors may be used.
	opened chan struct{}
	// stopping is set at the beginning of the shutdown.
	stopping atomic.Bool
	// started is set once the state contains this process.
	started atomic.Bool
	// restoring is set while a snapshot is restored: nothing is assigned.
	restoring atomic.Bool
	// drained: an operator had drained this node before it began to leave.
	drainedByOperator bool
	// contextsStay is set once the registry has refused to delete contexts.
	contextsUndeletable atomic.Bool
}

// New returns a node that does not run yet. The configuration has to be complete and valid
// (config.Config.Complete and Validate). New opens nothing.
func New(cfg config.Config, parts Parts) *Node {
	parts.setDefaults()
	n := &Node{
		cfg: cfg, parts: parts, metrics: prometheus.NewRegistry(), bootID: rand.Text(), opened: make(chan struct{}),
		readiness: &readiness{readyAfter: time.Duration(cfg.Ready.After), lostTimeout: time.Duration(cfg.Ready.Patience)},
	}
	n.peersAPI = sync.OnceValues(func() (kubernetes.Client, error) { return kubernetes.Connect(cfg.Kubernetes.Kubeconfig, 0, 0) })
	n.streams, n.endStreams = context.WithCancel(context.Background())
	n.metrics.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	n.log = countLog(parts.Log, n.metrics)
	exportVersion(n.metrics)
	n.counters = newCounters(n.metrics)
	n.foreign = newForeignWorkspaces(n.metrics)
	return n
}

// Opened returns a channel that is closed once Run has opened the data directory, the ports and the
// cluster. The methods Cluster, Store, API and BootID may be used afterwards.
func (n *Node) Opened() <-chan struct{} { return n.opened }

// Cluster returns the member of the Raft group.
func (n *Node) Cluster() *cluster.Node { return n.cluster }

// Store returns the replicated state, as far as this node has applied it.
func (n *Node) Store() *builds.Store { return n.store }

// Raft returns the replicated log of the state.
func (n *Node) Raft() builds.Raft { return n.raft }

// API returns the native API of this node, for calls within the process.
func (n *Node) API() api.Native { return api.Native{Service: n.service} }

// BootID returns the random id of this process in the state.
func (n *Node) BootID() string { return n.bootID }

func (n *Node) level() (level uint32) {
	n.store.Read(func(st *builds.State) { level = st.Level() })
	return level
}

// tempDir is where uploads and contexts lie while they are used.
func (n *Node) tempDir() string { return filepath.Join(n.cfg.DataDir, "tmp") }
