package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/hashicorp/raft"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Leads reports whether this node leads and has applied a command of its term.
func (n *Node) Leads() bool { return n.leading() }

// SaveSnapshot writes the state as it is now. RestoreSnapshot, InspectSnapshot
// and other clusters can read it.
func (n *Node) SaveSnapshot(w io.Writer) error {
	if err := n.fsm.failed(); err != nil {
		return err
	}
	state, err := n.cfg.StateMachine.Snapshot()
	if err != nil {
		return err
	}
	return writeSnapshot(w, n.fsm.index(), state)
}

// RestoreSnapshot replaces the state of the whole cluster by what SaveSnapshot
// wrote. Only the leader can. Everything that was acknowledged after the
// snapshot was taken is gone. What CheckSnapshot refuses changes nothing: Raft
// ends a node that cannot read what it has kept.
func (n *Node) RestoreSnapshot(ctx context.Context, raw []byte) error {
	if !n.leading() {
		return ErrNoLeader
	}
	check := n.cfg.CheckSnapshot
	if check == nil {
		check = func(io.Reader) error { return nil }
	}
	index, err := InspectSnapshot(bytes.NewReader(raw), check)
	if err != nil {
		return err
	}
	r := n.raft.Load()
	done := make(chan error, 1)
	n.done.Go(func() {
		done <- r.Restore(&raft.SnapshotMeta{
			Version: raft.SnapshotVersionMax, Index: index, Term: r.CurrentTerm(), Size: int64(len(raw)),
		}, bytes.NewReader(raw), 0)
	})
	select {
	case err := <-done:
		if err != nil {
			return err
		}
		// The snapshot may be older than what nodes have applied, and some may
		// have missed the last entries before it: one more takes all of them past
		// every index that anybody waits for.
		if _, err = n.Propose(ctx, &clusterv1.Command{Ignorable: true}); err != nil {
			return fmt.Errorf("%w: the state is replaced, but it has to be restored again: %w", ErrNoLeader, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the restore goes on: %w", ctx.Err())
	}
}

// InspectSnapshot checks what SaveSnapshot wrote to its last byte, gives the
// state in it to see, and answers its index.
func InspectSnapshot(r io.Reader, see func(io.Reader) error) (uint64, error) {
	return readSnapshot(r, see)
}

// Recover makes the node of a data directory the only voter of its cluster,
// for when a majority of the voters is gone for good. The node must not run.
// What only the lost voters had acknowledged is lost with them.
func Recover(cfg Config) error {
	cfg.setDefaults()
	dir, err := openDataDir(cfg.DataDir, cfg.Name, false)
	if err != nil {
		return err
	}
	n := &Node{cfg: cfg, dir: dir, fsm: newFSM(cfg.StateMachine, ""), stop: func() {}, closed: make(chan struct{})}
	defer func() { _ = n.Close() }()
	if !dir.current().Initialized {
		return errors.New("the node is in no cluster: there is nothing to recover")
	}
	s, _, err := n.openStorage()
	if err != nil {
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
