package cluster

import (
	"context"
	"io"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	"github.com/image-builder-ha/image-builder/cluster/fsm"
	"github.com/image-builder-ha/image-builder/cluster/gossip"
	"github.com/image-builder-ha/image-builder/cluster/raftlog"
	"github.com/image-builder-ha/image-builder/cluster/transport"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Config describes one node.
type Config struct {
	// Name is the node's permanent name, unique in the cluster.
	Name string
	// DataDir holds the log, the snapshots and the identity. Only one process may use it at a time.
	DataDir      string
	StateMachine StateMachine
	// CheckSnapshot reads the state in a snapshot to its end before that state replaces the state
	// of the cluster. It returns an error if the snapshot must not be restored. May be nil.
	CheckSnapshot func(io.Reader) error
	// Network connects the node to others; nil means a group of one node. Its address may change
	// between starts. The node closes it.
	Network transport.Network
	// Gossip announces the node's address to the others; nil disables gossip.
	Gossip *gossip.Options
	// Storage holds the log and the snapshots; nil stores them in DataDir.
	Storage *Storage
	// Cluster is the name of the cluster, "image-builder" if empty.
	Cluster string
	// Discover returns addresses of peer ports of possible other nodes. May be nil.
	Discover func(ctx context.Context) ([]string, error)
	// Expect is the number of nodes that form a new cluster together. With 0 the node never forms a
	// cluster, but only joins one.
	Expect int
	// Voters is the number of voting nodes, 3 or 5; the other members replicate only. 3 if zero.
	Voters int
	// Zone is the failure domain of the node, such as a rack or a data center.
	Zone string
	// BootID is the random id of this process.
	BootID string
	// FeatureLevel is the greatest level that this binary can apply. CommittedLevel returns the
	// level of the state.
	FeatureLevel   uint32
	CommittedLevel func() uint32
	// ConfirmReads reports whether all members serve the peer call Confirm, which read indexes
	// need. While it returns false, Raft's VerifyLeader takes its place. If nil, it is always true.
	ConfirmReads func() bool
	// RestoreLevel is the feature level that introduced restores through the log. Below it,
	// RestoreSnapshot refuses.
	RestoreLevel uint32
	// FloorLevel is the feature level from which members refuse a server that has less than it has
	// acknowledged.
	FloorLevel uint32
	// Keys returns the names of the keys that all nodes share, as `kind/name`. A node cannot become
	// a member if both nodes have keys of a kind, but none in common. The node adds the keys of
	// gossip. May be nil.
	Keys func() []string
	// Serve registers further services of the peer API.
	Serve []func(grpc.ServiceRegistrar)
	// Report adds fields to the node's response to a ping of the leader. May be nil.
	Report func(*clusterv1.PingResponse)
	// LogWrite returns the age of the oldest write in progress of a log of a build; 0 if there is
	// none. May be nil.
	LogWrite func() time.Duration
	// PruneAfter is how long a member must be silent before it is removed; 0 disables removal.
	PruneAfter time.Duration
	// StableFor is how long a node must be healthy before it can become a voter; 5 s if zero.
	StableFor time.Duration
	// PingInterval is how often the leader pings the members; 500 ms if zero.
	PingInterval time.Duration
	// MaxClockSkew is how far the leader's clock may differ from the median of all members before
	// it gives up leadership; 5 s if zero.
	MaxClockSkew time.Duration
	// SlowDisk is how long one write of the log may take before a leader gives up leadership; 2 s
	// if zero.
	SlowDisk time.Duration
	// Prepare returns the command that the leader replicates for cmd, which may be cmd itself. It
	// must not change cmd: a node that loses the leadership prepares cmd again, or sends it to the
	// next leader. If Prepare returns an error, the command is not proposed, and Propose returns
	// ErrRefused. May be nil.
	Prepare func(ctx context.Context, cmd *clusterv1.Command) (*clusterv1.Command, error)
	// MaxClockBack and MaxClockAhead limit how far the clock may be behind or ahead of the last
	// applied time when the node starts.
	MaxClockBack, MaxClockAhead time.Duration
	// AcceptClockJump starts the node although the clock exceeds these limits.
	AcceptClockJump bool
	Logger          *slog.Logger
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	// Heartbeat, Election and Lease are Raft's timeouts. If zero: 500 ms each, which neither a busy
	// CPU nor bulk writes on the same disk exceed; 100 ms in a group of one, which waits for no
	// other node. A Lease that is shorter than Election gains nothing, because a majority confirms
	// every read and every commit of the leader anyway.
	Heartbeat, Election, Lease time.Duration
	// CommitTimeout is the least interval of the messages that the leader sends to a follower
	// without new entries; the greatest one is twice as long. 10 ms if zero. From such a message a
	// follower learns that the last command is committed. Each step of a build on a node that does
	// not lead waits for it.
	CommitTimeout time.Duration
	// SnapshotThreshold is the number of commands after which a snapshot is taken. TrailingLogs is
	// the number of commands that stay in the log although a snapshot contains them. 8192 and 10240
	// if zero.
	SnapshotThreshold, TrailingLogs uint64
	// SegmentBytes is the size of one file of the log, which is allocated in advance; 64 MiB if
	// zero.
	SegmentBytes int
	// SnapshotInterval is how often Raft checks SnapshotThreshold; 2 minutes if zero.
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
		c.Network = transport.Nowhere(c.Name)
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
	if c.ConfirmReads == nil {
		c.ConfirmReads = func() bool { return true }
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

// DefaultCluster is the name of a cluster whose configuration has no name.
const DefaultCluster = "image-builder"

// Storage holds a node's log and snapshots. Log and Stable are not used if Disk is set.
type Storage struct {
	Disk      raftlog.Disk
	Log       raft.LogStore
	Stable    raft.StableStore
	Snapshots raft.SnapshotStore
}

// StateMachine is the replicated state.
type StateMachine = fsm.StateMachine

// Applied is the result of a proposal.
type Applied = fsm.Applied
