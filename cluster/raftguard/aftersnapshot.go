package raftguard

import (
	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/faults"
)

// A follower that has installed a snapshot has a log that begins right after it. hashicorp/raft 1.8
// (appendEntries) looks for the entry before the new ones in the log, or compares it with the last
// entry of the log, but not with the snapshot. So it refuses entries right after the snapshot if
// there are already some, as when the leader repeats a message or a later leader replaces them. The
// leader then goes back entry by entry, and at last sends the snapshot again, in place of entries
// that the follower has acknowledged.

// logBeginsAfter reports whether the log of this node begins right after its snapshot, which ends
// at an entry with that index and term, and which Raft has restored. Such an entry is committed, so
// each later leader has it.
func (c *Guard) logBeginsAfter(index, term uint64) bool {
	if first, err := c.opts.Log.FirstIndex(); err != nil || index == 0 || first != index+1 || faults.Mutant("snapshot-is-no-entry") {
		return false
	}
	if r := c.opts.Raft(); r == nil || r.AppliedIndex() < index {
		return false
	}
	list, err := c.opts.Snapshots.List()
	return err == nil && len(list) > 0 && list[0].Index == index && list[0].Term == term
}

// afterSnapshot returns an incoming call. If its entries follow the snapshot that the log begins
// after, Raft does not have to look for the entry before them.
func (c *Guard) afterSnapshot(rpc raft.RPC) raft.RPC {
	req, ok := rpc.Command.(*raft.AppendEntriesRequest)
	if !ok || c.opts.Log == nil || !c.logBeginsAfter(req.PrevLogEntry, req.PrevLogTerm) {
		return rpc
	}
	changed := *req
	changed.PrevLogEntry, changed.PrevLogTerm = 0, 0 // no check
	rpc.Command = &changed
	return rpc
}
