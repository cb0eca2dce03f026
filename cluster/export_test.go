package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// NewTermStore returns a termStore.
var NewTermStore = newTermStore

// Greatest returns the greatest term in the store.
func (s *termStore) Greatest() uint64 { return s.greatest.Load() }

// GreatestTerm returns the greatest term in which the node has begun an election, voted or followed.
func (n *Node) GreatestTerm() uint64 { return n.terms.greatest.Load() }

// SetWriteStart makes the log look as if a write had been in progress since t, or as if there were
// none if t is zero.
func (n *Node) SetWriteStart(t time.Time) {
	if t.IsZero() {
		n.logs.writeStart.Store(nil)
	} else {
		n.logs.writeStart.Store(&t)
	}
}

// LogStore is the replicated log on a disk.
type LogStore = logStore

// OpenLogStore opens and verifies the log on disk.
func OpenLogStore(dir string, disk Disk, segmentBytes int, fresh bool) (*LogStore, error) {
	s, err := openLogStore(dir, disk, segmentBytes, fresh)
	if err != nil {
		return nil, err
	}
	if fresh {
		err = s.syncMark(0)
	} else {
		var first uint64
		if first, err = s.FirstIndex(); err == nil { // a snapshot ends before the first entry
			_, err = s.verify(dir, max(first, 1)-1, true)
		}
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// Close closes the log.
func (s *logStore) Close() error { return s.close() }

// LockMembership delays changes of the membership until the returned function is called.
func (n *Node) LockMembership() (unlock func()) {
	n.membership <- struct{}{}
	return func() { <-n.membership }
}

// RemoveNow removes a server, also while the membership is locked.
func (n *Node) RemoveNow(id string) error {
	return n.raft.Load().RemoveServer(raft.ServerID(id), 0, 0).Error()
}

// MakeEmptyLog makes the files of a log without entries in a data directory.
func MakeEmptyLog(dir string) error {
	s, err := openLogStore(dir, nil, 1<<20, true)
	if err != nil {
		return err
	}
	_, err = s.verify(dir, 0, false)
	return errors.Join(err, s.close())
}

// BeforeRestoreWrite calls f before each write of a snapshot of a restore.
func (n *Node) BeforeRestoreWrite(f func() error) { n.restores.beforeWrite = f }

// BeforeRestore calls f before a restore is proposed.
func (n *Node) BeforeRestore(f func()) { n.beforeRestore = f }

// WhileLed returns a context for a call to a server that was the leader.
func (n *Node) WhileLed(ctx context.Context, leader string) (call context.Context, done func()) {
	return n.whileLed(ctx, raft.ServerID(leader))
}
