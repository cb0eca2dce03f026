package cluster

import (
	"context"

	"github.com/hashicorp/raft"
)

// NewTermStore returns a termStore.
var NewTermStore = newTermStore

// Greatest returns the greatest term in the store.
func (s *termStore) Greatest() uint64 { return s.greatest.Load() }

// GreatestTerm returns the greatest term in which the node has begun an election, voted or followed.
func (n *Node) GreatestTerm() uint64 { return n.terms.greatest.Load() }

// LockMembership delays changes of the membership until the returned function is called.
func (n *Node) LockMembership() (unlock func()) {
	n.membership <- struct{}{}
	return func() { <-n.membership }
}

// RemoveNow removes a server, even while the membership is locked.
func (n *Node) RemoveNow(id string) error {
	return n.raft.Load().RemoveServer(raft.ServerID(id), 0, 0).Error()
}

// BeforeRestoreWrite calls f before each write of a snapshot of a restore.
func (n *Node) BeforeRestoreWrite(f func() error) { n.restores.BeforeWrite = f }

// BeforeRestore calls f before a restore is proposed.
func (n *Node) BeforeRestore(f func()) { n.beforeRestore = f }

// WhileLed returns a context for a call to a server that was the leader.
func (n *Node) WhileLed(ctx context.Context, leader string) (call context.Context, done func()) {
	return n.whileLed(ctx, raft.ServerID(leader))
}
