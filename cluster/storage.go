package cluster

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
	"github.com/image-builder-ha/image-builder/cluster/raftlog"
	"github.com/image-builder-ha/image-builder/cluster/snapshot"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// openStorage opens the log and the snapshots, verifies both and returns the greatest time in the
// log.
func (n *Node) openStorage() (s Storage, last int64, err error) {
	var disk raftlog.Disk
	var snaps raft.SnapshotStore
	if given := n.cfg.Storage; given != nil {
		if given.Disk == nil {
			return *given, 0, nil
		}
		disk, snaps = given.Disk, given.Snapshots
	}
	if n.logs, err = raftlog.Open(raftlog.Options{Dir: n.dir.Path(), Disk: disk, SegmentBytes: n.cfg.SegmentBytes, Fresh: !n.dir.Identity().Initialized}); err != nil {
		return s, 0, err
	}
	if snaps == nil {
		if snaps, err = raft.NewFileSnapshotStoreWithLogger(n.dir.Path(), 2, n.logger()); err != nil {
			return s, 0, fmt.Errorf("open snapshots: %w", err)
		}
	}
	newest, err := n.verifySnapshots(snaps)
	if err != nil {
		return s, 0, err
	}
	if err := n.logs.Verify(newest, func(l *raft.Log) {
		var cmd clusterv1.Command
		if l.Type == raft.LogCommand && proto.Unmarshal(l.Data, &cmd) == nil {
			last = max(last, cmd.GetTimeUnixNano())
		}
	}); err != nil {
		return s, 0, err
	}
	return Storage{Log: n.logs, Stable: n.logs, Snapshots: snaps}, last, nil
}

// verifySnapshots reads the newest snapshot to its end and returns its index. Without this check,
// Raft would silently use an older snapshot, although the log may not continue from there.
func (n *Node) verifySnapshots(snaps raft.SnapshotStore) (uint64, error) {
	list, err := snaps.List()
	if err != nil {
		return 0, fmt.Errorf("list snapshots: %w", err)
	}
	if len(list) == 0 {
		return 0, nil
	}
	_, rc, err := snaps.Open(list[0].ID)
	if err == nil {
		_, err = snapshot.Read(rc, func(io.Reader) error { return nil })
		err = errors.Join(err, rc.Close())
	}
	if err != nil {
		return 0, datadir.Damaged(n.dir.Path(), fmt.Sprintf("snapshot %s cannot be read: %v", list[0].ID, err))
	}
	return list[0].Index, nil
}

func (n *Node) checkClock(last int64) error {
	if last == 0 || n.cfg.AcceptClockJump {
		return nil
	}
	now, then := n.cfg.Now(), time.Unix(0, last)
	switch d := now.Sub(then); {
	case d < -n.cfg.MaxClockBack:
		return fmt.Errorf("the clock says %s, which is %s before the last change of the state: correct the clock, or start once with the clock jump accepted", now.UTC().Format(time.RFC3339), -d.Round(time.Second))
	case d > n.cfg.MaxClockAhead:
		return fmt.Errorf("the clock says %s, which is %s after the last change of the state: correct the clock, or start once with the clock jump accepted", now.UTC().Format(time.RFC3339), d.Round(time.Second))
	}
	return nil
}

// noteStored records the last entry that the node has when it starts.
func (n *Node) noteStored(store Storage) error {
	last, err := store.Log.LastIndex()
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	snaps, err := store.Snapshots.List()
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	for _, s := range snaps {
		last = max(last, s.Index)
	}
	n.stored.Store(last)
	return nil
}
