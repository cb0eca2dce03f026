package node

import (
	"context"
	"crypto/rand"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/image-builder-ha/image-builder/builds/secrets"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/builds/logs/peer"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/internal/inflight"
	"github.com/image-builder-ha/image-builder/registry"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes"
	"github.com/image-builder-ha/image-builder/scheduler/owner"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
	"github.com/image-builder-ha/image-builder/tracing/otlp"
)

// Node is one node of the service: its configuration, the parts that Run opens, and their state.
// Its methods are spread over the files of the package by subject.
type Node struct {
	cfg     config.Config
	parts   Parts
	log     *slog.Logger
	metrics *prometheus.Registry
	bootID  string // the random id of this process

	// Opened by Run, in this order.
	tracing  *otlp.Provider // nil without an endpoint; a nil provider records nothing
	keyring  *secrets.Keyring
	store    *builds.Store
	images   Images
	registry *registry.Client // nil if Parts.Images is set
	cluster  *cluster.Node
	logs     *peer.Logs
	// logWrites are the changes of the logs of builds on the disk that are in progress.
	logWrites inflight.Ops
	raft      raftAdapter
	runtimes  map[string]workload.Runtime // by name
	owner     *owner.Owner
	service   *api.Service

	counters  counters
	readiness *readiness
	foreign   *foreignWorkspaces
	delayed   delayedRefreshes

	// kubernetesAPI returns the client for peers, labels and scaling of pods. The first call
	// connects; later calls return the same result.
	kubernetesAPI func() (kubernetes.Client, error)

	// work ends after the hand-over of a shutdown, or when the node fails. Attempts, the work of
	// the leader and all loops of the node end with it. Set by Run.
	work context.Context
	// streams ends after work. Log streams, watches and waits of clients end with it, and the
	// clients continue on another node.
	streams    context.Context
	endStreams context.CancelFunc
	// opened is closed once all parts are open: the accessors may be used.
	opened chan struct{}
	// stopping is set at the beginning of the shutdown.
	stopping atomic.Bool
	// started is set once the replicated state contains this process.
	started atomic.Bool
	// restoring is set while a snapshot is restored. The leader assigns nothing meanwhile.
	restoring atomic.Bool
	// drainedByOperator reports whether an operator had drained this node before it began to leave.
	// Only the shutdown uses it.
	drainedByOperator bool
	// contextsUndeletable is set once the registry has refused to delete an uploaded context.
	contextsUndeletable atomic.Bool
}

// New returns a node that does not run yet. The configuration must be complete and valid
// (config.Config.Complete and Validate). New opens no file and no port.
func New(cfg config.Config, parts Parts) *Node {
	parts.setDefaults()
	n := &Node{
		cfg: cfg, parts: parts, metrics: prometheus.NewRegistry(), bootID: rand.Text(), opened: make(chan struct{}),
		readiness: &readiness{readyAfter: time.Duration(cfg.Ready.After), lostTimeout: time.Duration(cfg.Ready.Patience)},
	}
	n.kubernetesAPI = sync.OnceValues(func() (kubernetes.Client, error) { return kubernetes.Connect(cfg.Kubernetes.Kubeconfig, 0, 0) })
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

// Opened returns a channel that Run closes once the data directory, the ports and the cluster are
// open. Cluster, Store, Raft and API may be called afterwards. The channel stays open if Run fails
// before.
func (n *Node) Opened() <-chan struct{} { return n.opened }

// Cluster returns the node's member of the Raft group. The caller must not close it.
func (n *Node) Cluster() *cluster.Node { return n.cluster }

// Store returns the replicated state as far as this node has applied it.
func (n *Node) Store() *builds.Store { return n.store }

// Raft returns the replicated log that commands are proposed to. A proposal waits for a leader
// until the deadline of its context, or for leaderTimeout without one.
func (n *Node) Raft() builds.Raft { return n.raft }

// API returns the native API of this node for calls within the process.
func (n *Node) API() api.Native { return api.Native{Service: n.service} }

// BootID returns the random id by which the replicated state knows this process.
func (n *Node) BootID() string { return n.bootID }

// level returns the feature level of the applied state.
func (n *Node) level() (level uint32) {
	n.store.Read(func(st *builds.State) { level = st.Level() })
	return level
}

// ConfirmsReads reports whether all nodes of the cluster serve the peer call Confirm.
func (n *Node) ConfirmsReads() bool { return n.level() >= builds.ConfirmLevel }

// tempDir returns the directory of uploads and build contexts in use. It is emptied at the start.
func (n *Node) tempDir() string { return filepath.Join(n.cfg.DataDir, "tmp") }
