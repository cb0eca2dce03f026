package sim

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/api"
	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/clustertest"
	"github.com/image-builder-ha/image-builder/cluster/disktest"
	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/node"
	"github.com/image-builder-ha/image-builder/scheduler/workload"
)

// machine is one machine of the cluster: its disks and clock, which survive a crash, and the
// process that runs.
type machine struct {
	w         *world
	name      string
	address   string
	dir       string
	offset    atomic.Int64   // of the clock, in nanoseconds
	raftDisk  *disktest.Disk // disk of the replicated log
	snapshots raft.SnapshotStore
	disk      *disk // disk of the logs of builds

	mu  sync.Mutex
	run *running // nil while no process runs
}

// running is one process of a machine.
type running struct {
	net   *clustertest.Network
	node  *node.Node
	mount *mount
	raft  *disktest.Mount
	ctx   context.Context              // ends when the process begins to end: connections to it break
	term  atomic.Pointer[cluster.Term] // the last term in which it led
	stop  context.CancelCauseFunc
	done  chan struct{} // closed once the process has ended
}

func (r *running) cluster() *cluster.Node { return r.node.Cluster() }

func (r *running) store() *builds.Store { return r.node.Store() }

func (r *running) api() api.Native { return r.node.API() }

func (r *running) leads() bool { return r.cluster().Leads() }

// lease and grace are owner.lease and owner.grace of all nodes.
const lease, grace = 4 * time.Second, 2 * time.Second

// wipe gives the machine empty disks.
func (n *machine) wipe() {
	n.dir = n.w.t.TempDir()
	n.raftDisk, n.snapshots = disktest.NewDisk(), clustertest.NewSnapshots()
	n.disk = newDisk()
}

// config returns the configuration of the node. Values that it does not set are the defaults.
func (n *machine) config() config.Config {
	c := config.Default()
	c.Name, c.DataDir = n.name, n.dir
	c.Server.Services.GRPC.Address, c.MetricsAddress, c.HealthAddress = "", "", "" // clients call the API within the process
	c.Orchestrator.BaseImageRepository, c.Orchestrator.WorkspaceImageRepository = "r.example.com/base", "r.example.com/ws"
	c.Sealing.KeyFile = n.w.keys
	c.Cluster.Expect, c.Cluster.Voters = len(n.w.nodes), 5
	for _, o := range n.w.nodes {
		c.Cluster.Peers = append(c.Cluster.Peers, o.address)
	}
	c.Clock.AcceptJump = true
	c.Raft.Heartbeat, c.Raft.Election = config.Duration(time.Second), config.Duration(time.Second)
	c.Raft.SnapshotThreshold, c.Raft.TrailingLogs, c.Raft.SnapshotInterval = 200, 50, config.Duration(10*time.Second)
	c.Raft.SegmentBytes = 8 << 10
	c.Owner.Lease, c.Owner.Grace = config.Duration(lease), config.Duration(grace)
	c.Builds.RunningPerNode, c.Builds.Timeout, c.Builds.MaxTimeout = 8, config.Duration(time.Hour), config.Duration(time.Hour)
	c.Logs.SegmentBytes, c.Logs.FenceTimeout = 512, config.Duration(time.Minute)
	c.Logs.ReplaceAfter, c.Logs.RepairAfter = config.Duration(time.Second), config.Duration(20*time.Second)
	if n.w.interval > 0 {
		c.RefCache.Interval = config.Duration(n.w.interval)
	}
	c.Ready.After = config.Duration(10 * time.Second)
	c.Shutdown.Drain, c.Shutdown.Grace = 0, config.Duration(5*time.Second)
	return c
}

// start starts a process of the machine, and returns once its node is open.
func (n *machine) start() {
	w := n.w
	r := &running{net: w.hub.NewNetwork(n.name, n.address), mount: n.disk.mount(), raft: n.raftDisk.Mount(), done: make(chan struct{})}
	r.ctx, r.stop = context.WithCancelCause(context.Background())
	out := slog.DiscardHandler
	if *verboseFlag {
		out = slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelInfo}).WithAttrs([]slog.Attr{slog.String("node", n.name)})
	}
	r.node = node.New(n.config(), node.Parts{
		Log:     slog.New(countingHandler{out, w}),
		Network: r.net, Storage: &cluster.Storage{Disk: r.raft, Snapshots: n.snapshots}, LogFS: r.mount,
		Now:          func() time.Time { return time.Now().Add(time.Duration(n.offset.Load())) },
		PingInterval: time.Second, CommitTimeout: 100 * time.Millisecond,
		Images:    registry{w, n.name},
		Runtimes:  map[string]workload.Runtime{inNode: runtime{w.workloads, inNode}, inPod: runtime{w.workloads, inPod}},
		RuntimeOf: runtimeOf,
		Lead:      []func(context.Context, *cluster.Term) error{func(_ context.Context, t *cluster.Term) error { r.term.Store(t); return nil }},
	})
	go func() {
		defer close(r.done)
		defer r.stop(nil)
		if err := r.node.Run(r.ctx); err != nil && !errors.Is(context.Cause(r.ctx), node.ErrKilled) {
			w.t.Errorf("seed %d: node %s ended: %v", w.seed, n.name, err)
		}
	}()
	select {
	case <-r.node.Opened():
	case <-r.done:
		w.t.Fatalf("seed %d: node %s did not start", w.seed, n.name)
	}
	n.mu.Lock()
	n.run = r
	n.mu.Unlock()
}

// crash ends the process at once: nothing that it does later reaches another node or the disks.
func (n *machine) crash() {
	r := n.detach()
	if r == nil {
		return
	}
	r.net.Crash()
	r.mount.kill()
	r.raft.Kill()
	r.stop(node.ErrKilled)
	<-r.done
}

// shutDown ends the process as SIGTERM does, and waits for its end.
func (n *machine) shutDown() {
	if r := n.detach(); r != nil {
		r.stop(nil)
		<-r.done
	}
}

// detach returns the running process and removes it from the machine, so that it is ended only
// once.
func (n *machine) detach() *running {
	n.mu.Lock()
	defer n.mu.Unlock()
	r := n.run
	n.run = nil
	return r
}

// alive returns the running process, or nil.
func (n *machine) alive() *running {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.run
}
