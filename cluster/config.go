package cluster

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// StateMachine is the replicated state.
type StateMachine interface {
	// Apply applies one command. It is called by one goroutine in the order of
	// the log and must be deterministic. An answer that is an error with a
	// method Fatal() bool stops the node: its binary does not know what the
	// cluster has agreed on.
	Apply(index uint64, cmd *clusterv1.Command) any
	// Snapshot answers the state as it is now. It is written while Apply goes on.
	Snapshot() (io.WriterTo, error)
	// Restore replaces the state, or leaves it as it is and answers an error.
	Restore(r io.Reader) error
	// LastTime is the greatest applied time, nanoseconds since the Unix epoch.
	LastTime() int64
}

// Config describes one node.
type Config struct {
	// Name is the node's stable name, unique in the cluster.
	Name string
	// DataDir holds log, snapshots and identity. One process at a time.
	DataDir      string
	StateMachine StateMachine
	// CheckSnapshot reads the state in a snapshot that is about to replace that of
	// the cluster, to its end, and answers why it must not. May be nil.
	CheckSnapshot func(io.Reader) error
	// Network connects the node to others; nil makes it a group of one. Its
	// address may change between starts. The node closes it.
	Network Network
	// Gossip tells others where the node is; nil: it does not gossip.
	Gossip *GossipOptions
	// Storage keeps log and snapshots; nil keeps them in DataDir.
	Storage *Storage
	// Cluster is the name of the cluster, "image-builder" if empty.
	Cluster string
	// Discover answers addresses of peer ports at which other nodes may be.
	Discover func(ctx context.Context) ([]string, error)
	// Expect is the number of nodes that form a new cluster together. With 0
	// the node only ever joins one.
	Expect int
	// Voters is how many nodes vote, 3 or 5; the others follow. 3 if zero.
	Voters int
	// Zone is the failure domain of the node.
	Zone string
	// BootID is the random id of this process.
	BootID string
	// FeatureLevel is the greatest level that this binary can apply,
	// CommittedLevel the one that the state is at.
	FeatureLevel   uint32
	CommittedLevel func() uint32
	// Keys names the keys that all nodes share, as `kind/name`: a node that holds
	// none of a kind that this one holds does not become a member. Those of
	// gossip are added. May be nil.
	Keys func() []string
	// Serve adds services of others to the peer API.
	Serve []func(grpc.ServiceRegistrar)
	// Report completes what the node tells the leader about itself. May be nil.
	Report func(*clusterv1.PingResponse)
	// PruneAfter is how long a member must be silent until it is removed;
	// 0 removes none.
	PruneAfter time.Duration
	// StableFor is how long a node must be healthy before it may vote; 5 s if
	// zero.
	StableFor time.Duration
	// PingInterval is how often the leader asks the members how they are;
	// 500 ms if zero.
	PingInterval time.Duration
	// MaxClockSkew is by how much the leader's clock may differ from the median
	// of all before it gives up leadership; 5 s if zero.
	MaxClockSkew time.Duration
	// SlowDisk is how long one write of the log may take before a leader gives
	// up leadership; 2 s if zero.
	SlowDisk time.Duration
	// Prepare completes a command on the leader before it is replicated. May
	// be nil.
	Prepare func(ctx context.Context, cmd *clusterv1.Command) error
	// MaxClockBack and MaxClockAhead bound how far the clock may be behind or
	// ahead of the last applied time at the start.
	MaxClockBack, MaxClockAhead time.Duration
	// AcceptClockJump starts nevertheless.
	AcceptClockJump bool
	Logger          *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Heartbeat, Election and Lease are Raft's timers. If zero: 500 ms each,
	// which neither a busy CPU nor bulk writes on the same disk run into; 100 ms
	// in a group of one, which has nobody to wait for. A leader that steps down
	// sooner than followers would elect another one gains nothing: all that it
	// answers and commits, a majority confirms.
	Heartbeat, Election, Lease time.Duration
	// CommitTimeout is how long followers that nothing else is sent to wait, at
	// least, and twice as long at most, to learn that the last command is committed;
	// 10 ms if zero. Each step of a build on another node than the leader waits for
	// that, and each follower is sent an empty message as often.
	CommitTimeout time.Duration
	// SnapshotThreshold is the number of commands after which a snapshot is
	// taken, TrailingLogs how many stay in the log behind it; 8192 and 10240
	// if zero.
	SnapshotThreshold, TrailingLogs uint64
	// SegmentBytes is the size of a file of the log, which is allocated in
	// advance; 64 MiB if zero.
	SegmentBytes int
	// SnapshotInterval is how often that is looked at; 2 minutes if zero.
	SnapshotInterval time.Duration
}

func (c *Config) setDefaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	if c.Network == nil {
		def(&c.Heartbeat, 100*time.Millisecond)
		def(&c.Election, 100*time.Millisecond)
		def(&c.Lease, 100*time.Millisecond)
		c.Network = newLone(c.Name)
	}
	def(&c.Heartbeat, 500*time.Millisecond)
	def(&c.Election, c.Heartbeat)
	def(&c.Lease, c.Heartbeat)
	def(&c.CommitTimeout, 10*time.Millisecond)
	def(&c.StableFor, 5*time.Second)
	def(&c.PingInterval, 500*time.Millisecond)
	def(&c.MaxClockSkew, 5*time.Second)
	def(&c.SlowDisk, 2*time.Second)
	if c.Cluster == "" {
		c.Cluster = DefaultCluster
	}
	if c.Voters == 0 {
		c.Voters = 3
	}
	if c.CommittedLevel == nil {
		c.CommittedLevel = func() uint32 { return 0 }
	}
	def(&c.MaxClockBack, time.Hour)
	def(&c.MaxClockAhead, 30*24*time.Hour)
	def(&c.SnapshotInterval, 2*time.Minute)
	if c.SegmentBytes == 0 {
		c.SegmentBytes = 64 << 20
	}
	if c.SnapshotThreshold == 0 {
		c.SnapshotThreshold = 8192
	}
	if c.TrailingLogs == 0 {
		c.TrailingLogs = 10240
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// DefaultCluster is the name of a cluster that was given none.
const DefaultCluster = "image-builder"

// Storage keeps a node's log and snapshots.
type Storage struct {
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
}

// Errors of the node.
var (
	// ErrNoLeader: there was no leader until the caller's time was over. The
	// command was not proposed.
	ErrNoLeader = errors.New("no leader: the command was not proposed, ask again")
	// ErrOutcomeUnknown: the command was handed to the log and its fate is not
	// known. Asking again is safe for commands that can be repeated.
	ErrOutcomeUnknown = errors.New("the outcome of the command is unknown, ask again")
	// ErrTrails: the command is committed, and this node does not get to apply
	// it, so that it cannot tell the result. Another node can.
	ErrTrails = errors.New("the command is committed, and this node trails too far behind to tell its result: ask again, best another node")
	// ErrClosed: the node is closed.
	ErrClosed = errors.New("the node is closed")
)

// Applied is the answer to a proposal.
type Applied struct {
	// Index is where the command stands in the log.
	Index uint64
	// Result is what StateMachine.Apply answered.
	Result any
}

// Status is how a node sees the cluster.
type Status struct {
	Name, StoreID string
	// Role is Leader, Follower, Candidate or Shutdown.
	Role       string
	LeaderID   string
	LeaderName string
	// ClusterID is empty while the node is in no cluster.
	ClusterID string
	Voter     bool
	Term      uint64
	// Applied is the index of the last applied command.
	Applied uint64
	// Behind is how many committed entries are not applied yet.
	Behind uint64
	// LastContact is how long ago a leader was heard; 0 on the leader.
	LastContact time.Duration
}
