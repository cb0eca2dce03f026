// Package raftguard stands between Raft and its transport. It keeps calls away from Raft that
// hashicorp/raft handles in a way that loses data or time, and messages that this node must not
// send. It also lets a node call itself: Elect makes Raft start an election.
package raftguard

import (
	"sync"

	"github.com/hashicorp/raft"
)

// Guard is a transport between Raft and the one below.
type Guard struct {
	raft.Transport
	opts  Options
	calls chan raft.RPC
	stop  chan struct{}
	done  chan struct{}
	once  sync.Once
	// refused counts the entries that this node has refused in a row, for retriedSoon.
	refused int
	replies sync.WaitGroup
}

// Options give a Guard the facts that it needs about its node.
type Options struct {
	// MaySend returns an error if a message to that server must not leave this node.
	MaySend func(to raft.ServerID) error
	// MayStand returns an error if this node must not stand for election; nil if it always may.
	MayStand func() error
	// Log and Snapshots are those of Raft. If Log is nil, snapshots of leaders are always
	// installed.
	Log       raft.LogStore
	Snapshots raft.SnapshotStore
	// Raft returns Raft, or nil while it starts.
	Raft func() *raft.Raft
}
