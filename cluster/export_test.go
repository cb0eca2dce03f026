package cluster

import (
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// SetWriteStart makes the log look as if a write had been in progress since t, or as if there were
// none if t is zero.
func (n *Node) SetWriteStart(t time.Time) {
	if t.IsZero() {
		n.logs.writeStart.Store(0)
	} else {
		n.logs.writeStart.Store(t.UnixNano())
	}
}

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
