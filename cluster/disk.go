package cluster

import (
	"github.com/image-builder-ha/image-builder/faults"
)

// diskProblem returns why the log of this node cannot be written now, or nil. A node with such a
// problem accepts no commands and does not stand for election.
func (n *Node) diskProblem() error {
	if n.logs == nil || faults.Mutant("disk-problems-ignored") {
		return nil
	}
	return n.logs.Unwritable()
}

// DiskProblem returns why the replicated log of this node cannot be written now, or nil.
func (n *Node) DiskProblem() error { return n.diskProblem() }

// DiskFree returns how many bytes the disk of the replicated log has left, and how many it needs so
// that the node accepts commands. ok is false if that is unknown.
func (n *Node) DiskFree() (free, need uint64, ok bool) {
	if n.logs == nil {
		return 0, 0, false
	}
	return n.logs.Room()
}
