package cluster

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/hashicorp/raft"
)

// Leads reports whether this node leads and has applied a command of its term.
func (n *Node) Leads() bool { return n.leading() }

// SaveSnapshot writes the current state to w. RestoreSnapshot and InspectSnapshot of any cluster
// can read it. It returns an error if the state machine has stopped.
func (n *Node) SaveSnapshot(w io.Writer) error {
	if err := n.fsm.failed(); err != nil {
		return err
	}
	state, err := n.cfg.StateMachine.Snapshot()
	if err != nil {
		return err
	}
	return writeSnapshot(w, snapshotHeader{index: n.fsm.index()}, state)
}

// InspectSnapshot verifies the framing and the checksum of a snapshot of SaveSnapshot, passes the
// state in it to check, and returns the index of the last command that it contains.
func InspectSnapshot(r io.Reader, check func(io.Reader) error) (uint64, error) {
	head, err := readSnapshot(r, check)
	return head.index, err
}

// Recover makes the node of a data directory the only voter of a new cluster with the state of its
// former one. It is for a cluster that has lost a majority of its voters for good. The node must not
// run. Writes that only the lost voters had stored are lost. The cluster id changes, so that the
// former voters, should they come back, cannot outvote the node: each side refuses the other.
func Recover(cfg Config) error {
	cfg.setDefaults()
	dir, err := openDataDir(cfg.DataDir, cfg.Name, false)
	if err != nil {
		return err
	}
	n := &Node{cfg: cfg, dir: dir, fsm: newFSM(cfg.StateMachine, ""), stop: func() {}, closed: make(chan struct{})}
	n.fsm.restoreData = n.restoreData
	defer func() { _ = n.Close() }()
	if !dir.current().Initialized {
		return errors.New("the node is in no cluster: there is nothing to recover")
	}
	s, _, err := n.openStorage()
	if err != nil {
		return err
	}
	if err := n.openRestores(s.Log); err != nil {
		return err
	}
	if has, err := raft.HasExistingState(s.Log, s.Stable, s.Snapshots); err != nil || !has {
		return errors.Join(errors.New("the node has not received the log of its cluster yet: there is nothing to recover"), err)
	}
	// The id changes first. If the process ends before the configuration has changed, the node only
	// waits for voters, and Recover can be called again. In the other order the node could lead
	// under the former id.
	if err := dir.changeIf(func(d *identity) error { d.ClusterID, d.Bootstrap = newID(), nil; return nil }); err != nil {
		return err
	}
	_, trans := raft.NewInmemTransport("")
	if err := raft.RecoverCluster(n.raftConfig(), n.fsm, s.Log, s.Stable, s.Snapshots, trans, raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: n.serverID(), Address: raft.ServerAddress(cfg.Network.Address()),
	}}}); err != nil {
		return fmt.Errorf("recover %s: %w", filepath.Clean(cfg.DataDir), err)
	}
	return nil
}
