package cluster

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/clock"
	"github.com/image-builder-ha/image-builder/cluster/datadir"
	"github.com/image-builder-ha/image-builder/cluster/fsm"
	"github.com/image-builder-ha/image-builder/cluster/gossip"
	"github.com/image-builder-ha/image-builder/cluster/raftguard"
	"github.com/image-builder-ha/image-builder/cluster/raftlog"
	"github.com/image-builder-ha/image-builder/cluster/restorefiles"
	"github.com/image-builder-ha/image-builder/cluster/serverid"
	"github.com/image-builder-ha/image-builder/cluster/transport"
	"github.com/image-builder-ha/image-builder/internal/loglimit"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Node is one member of the Raft group. Call New, then Lead as often as needed, then Open, and
// finally Close.
type Node struct {
	cfg  Config
	fsm  *fsm.FSM
	dir  *datadir.Dir
	logs *raftlog.Log  // nil if Config.Storage has no disk
	log  raft.LogStore // the log that Raft uses: logs, or that of Config.Storage
	raft atomic.Pointer[raft.Raft]

	terms      *termStore                      // set before raft
	confirmers atomic.Pointer[[]raft.ServerID] // voters that confirmed the last read index

	trans     *raftguard.Guard
	work      []func(context.Context, *Term) error
	clock     *clock.Clock
	reads     readBatches
	peers     *peers
	book      addressBook
	gossip    atomic.Pointer[gossip.Gossip]
	raftCalls callCounter
	reach     *reach
	lost      chan raft.ServerID
	recheck   chan struct{}    // makes memberLoop check the membership now; capacity 1
	opened    atomic.Uint64    // last index of the log when this process opened it
	refusals  loglimit.Limiter // limits the log lines about refused nodes

	current atomic.Pointer[Term] // the term whose work runs on this node, nil if none does; written under mu

	joining sync.Mutex // held while memberLoop checks the membership
	leaving bool       // memberLoop must not join

	restores      *restorefiles.Files
	restoreBusy   chan struct{} // full while this leader restores a snapshot; capacity 1
	beforeRestore func()        // called before a restore is proposed; nil except in tests
	restoreMoves  atomic.Uint64 // odd while a restore of this leader is proposed and not applied

	floors      floors
	divergences divergences

	stateBusy chan struct{} // full while this node sends its state to a member; capacity 1
	stored    atomic.Uint64 // index of the last entry when this process opened the log and the snapshots

	pinged     pinged
	membership chan struct{} // full while Raft's configuration is changed; capacity 1

	mu      sync.Mutex
	leads   bool          // this node leads and has applied a command of its term; see setLeads
	term    uint64        // the term in which it leads
	changed chan struct{} // closed and replaced when leads or the leader changes

	stop   context.CancelFunc
	done   sync.WaitGroup
	closed chan struct{}
	once   sync.Once
}

// StoreID returns the random id of the data directory.
func (n *Node) StoreID() string { return n.dir.StoreID() }

// ServerID returns the node's Raft server id: name/store id. A node whose disk was wiped is another
// server.
func (n *Node) ServerID() string { return string(n.serverID()) }

func (n *Node) serverID() raft.ServerID {
	return serverid.New(n.cfg.Name, n.dir.StoreID())
}

// Proposed reports whether this process has proposed the command that is being applied. It returns
// false for commands of other nodes and of a former process of this node.
func (n *Node) Proposed(index uint64, cmd *clusterv1.Command) bool {
	_, offset := n.fsm.Position()
	return cmd.GetOrigin() == n.ServerID() && index-offset > n.opened.Load()
}

// alone reports whether the node is a group of one, without a peer port.
func (n *Node) alone() bool {
	_, alone := n.cfg.Network.(*transport.Lone)
	return alone
}

// Applied returns the index of the last applied command.
func (n *Node) Applied() uint64 { return n.fsm.Index() }

// WaitApplied blocks until the command at index is applied on this node.
func (n *Node) WaitApplied(ctx context.Context, index uint64) error { return n.fsm.Wait(ctx, index) }

// Fatal returns a channel that delivers the error at which the node must stop: a command that this
// binary does not know.
func (n *Node) Fatal() <-chan error { return n.fsm.Fatal() }
