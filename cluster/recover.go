package cluster

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
	"github.com/image-builder-ha/image-builder/cluster/fsm"
)

// Recover makes the node of a data directory the only voter of a new cluster with the state of its
// former one. It is for a cluster that has lost a majority of its voters for good. The node must
// not run. Writes that only the lost voters had stored are lost. The cluster id changes, so that
// the former voters, should they come back, cannot outvote the node: each side refuses the other.
func Recover(cfg Config) error {
	cfg.setDefaults()
	dir, err := datadir.Open(cfg.DataDir, cfg.Name, false)
	if err != nil {
		return err
	}
	n := &Node{cfg: cfg, dir: dir, stop: func() {}, closed: make(chan struct{})}
	n.fsm = fsm.New(fsm.Options{Machine: cfg.StateMachine, Level: cfg.FeatureLevel, RestoreData: n.restoreData})
	defer func() { _ = n.Close() }()
	if !dir.Identity().Initialized {
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
	// The id changes right before the snapshot with the new configuration becomes valid, when all
	// of the log is applied and the snapshot is written: whatever fails before leaves the node in
	// its cluster. If the process ends in between, the node only waits for voters, and Recover can
	// be called again. In the other order the node could lead under the former id.
	snaps := recoveredSnapshots{s.Snapshots, func() error {
		return dir.Change(func(d *datadir.Identity) error { d.ClusterID, d.Bootstrap = newID(), nil; return nil })
	}}
	former := dir.Identity().ClusterID
	_, trans := raft.NewInmemTransport("")
	if err := raft.RecoverCluster(n.raftConfig(), n.fsm, s.Log, s.Stable, snaps, trans, raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: n.serverID(), Address: raft.ServerAddress(cfg.Network.Address()),
	}}}); err != nil {
		what := "nothing has changed"
		if dir.Identity().ClusterID != former {
			what = "the node has left its cluster already: remove the cause and recover the node again"
		}
		return fmt.Errorf("recover %s: %w (%s)", filepath.Clean(cfg.DataDir), err, what)
	}
	return nil
}

// recoveredSnapshots is the store for the snapshot of Recover. It calls validates before a complete
// snapshot becomes valid.
type recoveredSnapshots struct {
	raft.SnapshotStore
	validates func() error
}

// Create begins a snapshot.
func (s recoveredSnapshots) Create(version raft.SnapshotVersion, index, term uint64, c raft.Configuration, cIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, c, cIndex, t)
	if err != nil {
		return nil, err
	}
	return &recoveredSink{SnapshotSink: sink, validates: s.validates}, nil
}

type recoveredSink struct {
	raft.SnapshotSink
	validates func() error
	called    bool
}

// Close makes the snapshot valid, unless validates returns an error. It can be called again.
func (s *recoveredSink) Close() error {
	if !s.called {
		if err := s.validates(); err != nil {
			return errors.Join(err, s.Cancel())
		}
		s.called = true
	}
	return s.SnapshotSink.Close()
}
