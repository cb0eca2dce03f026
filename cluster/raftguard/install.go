package raftguard

import (
	"errors"
	"io"

	"github.com/hashicorp/raft"
)

var errHasNewerSnapshot = errors.New("this node has a newer snapshot, or the term of the leader is new to it")

// A leader may send a snapshot although the follower has more, for instance if the message was
// delayed. hashicorp/raft 1.8 (installSnapshot) then goes back to the state and the configuration
// of the snapshot, and removes the whole log, even the entries after the snapshot that the follower
// has acknowledged and still counts as stored. The Raft paper (section 7) retains them. Therefore
// such a call does not reach Raft.

// hasSnapshot responds to a call that sends a snapshot if this node has all that is in it. The
// leader continues with the entries after the snapshot.
func (c *Guard) hasSnapshot(rpc raft.RPC) bool {
	req, ok := rpc.Command.(*raft.InstallSnapshotRequest)
	if !ok || c.opts.Log == nil {
		return false
	}
	has, err := c.containsSnapshot(req)
	if !has && err == nil {
		return false
	}
	go func() { // ends with the connection at the latest
		_, _ = io.Copy(io.Discard, rpc.Reader) // the next call follows on the same connection
		if err != nil {
			rpc.Respond(nil, err)
			return
		}
		rpc.Respond(&raft.InstallSnapshotResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}, Term: req.Term, Success: true}, nil)
	}()
	return true
}

// containsSnapshot reports whether the log of this node has the last entry of a leader's snapshot,
// or begins right after that snapshot. It returns an error if the leader must try again: it begins
// a term that Raft has not seen yet, or this node has a newer snapshot, so that the log may lack
// the entries after that of the leader.
func (c *Guard) containsSnapshot(req *raft.InstallSnapshotRequest) (has bool, err error) {
	var term uint64
	if r := c.opts.Raft(); r != nil {
		term = r.CurrentTerm()
	}
	if req.Term < term {
		return false, nil // Raft refuses it
	}
	var entry raft.Log
	if c.opts.Log.GetLog(req.LastLogIndex, &entry) == nil && entry.Term == req.LastLogTerm || c.logBeginsAfter(req.LastLogIndex, req.LastLogTerm) {
		if req.Term > term {
			return false, errHasNewerSnapshot
		}
		return true, nil
	}
	if list, err := c.opts.Snapshots.List(); err == nil && len(list) > 0 && list[0].Index > req.LastLogIndex {
		return false, errHasNewerSnapshot
	}
	return false, nil
}
