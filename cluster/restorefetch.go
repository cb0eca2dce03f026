package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/cluster/fsm"
	"github.com/image-builder-ha/image-builder/cluster/restorefiles"
	"github.com/image-builder-ha/image-builder/cluster/snapshot"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// restoreData returns the snapshot that the command at index names. A node that does not have it
// fetches it from another member, or, with later set, the state of the leader: the members remove
// the snapshot when their logs no longer have the command, and the state of the leader contains it
// then. restoreData never returns without a snapshot or an error.
func (n *Node) restoreData(ref *clusterv1.SnapshotRef, index uint64) (raw []byte, later bool, err error) {
	n.restores.Named(ref, index)
	ctx, cancel := n.untilClosed(context.Background())
	defer cancel()
	for deadline := time.Now().Add(restoreFetchTimeout); ; {
		raw, err := n.restores.Read(ref)
		if err != nil && !n.alone() {
			raw, later, err = n.fetchRestored(ctx, ref, index)
		}
		if err == nil {
			return raw, later, nil
		}
		if ctx.Err() != nil {
			return nil, false, fsm.ErrStopsApplying
		}
		if n.alone() || !time.Now().Before(deadline) {
			return nil, false, n.missingRestore(ref, index, err)
		}
		t := time.NewTimer(restoreFetchPause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// missingRestore returns the error for a snapshot that the command at index names and that cannot
// be found.
func (n *Node) missingRestore(ref *clusterv1.SnapshotRef, index uint64, err error) error {
	remedy := "copy the file from that directory of another node of the cluster, and start again"
	if !n.alone() {
		remedy = "no member has it, and the leader cannot send its state: start the other members, then this node; if that does not help, empty the data directory of this node and start it, so that it joins as a new member"
	}
	return fmt.Errorf("the command at index %d restores the snapshot %s of %d bytes, which is not in %s: %s (%w)",
		index, restorefiles.Name(ref), ref.GetSize(), n.restores.Dir(), remedy, err)
}

// fetchRestored fetches the snapshot that the command at index names, or else, with later set, the
// state of the leader. A node that leads itself gives up leadership, so that it can fetch the
// state.
func (n *Node) fetchRestored(ctx context.Context, ref *clusterv1.SnapshotRef, index uint64) (raw []byte, later bool, err error) {
	r := n.raft.Load()
	if r == nil {
		return nil, false, errors.New("this node is starting")
	}
	if err = n.fetchRestore(ctx, r, ref); err == nil {
		raw, err = n.restores.Read(ref)
		return raw, false, err
	}
	if r.State() == raft.Leader {
		n.giveUp(ctx, "it has not the snapshot that it must restore")
	}
	raw, serr := n.fetchState(ctx, n.fsm.Index())
	if serr != nil {
		return nil, false, errors.Join(err, serr)
	}
	at, serr := snapshot.Read(bytes.NewReader(raw), func(io.Reader) error { return nil })
	if serr == nil && at.Index-at.Offset < index {
		serr = fmt.Errorf("the state of the leader ends at entry %d of the log", at.Index-at.Offset)
	}
	if serr != nil {
		return nil, false, errors.Join(err, serr)
	}
	n.cfg.Logger.Warn("no member has the snapshot that this node must restore: it continues with the state of the leader",
		"node", n.cfg.Name, "sha256", restorefiles.Name(ref), "entry", index, "continues_after", at.Index-at.Offset)
	return raw, true, nil
}

// fetchRestore fetches a snapshot from the first member that has it.
func (n *Node) fetchRestore(ctx context.Context, r *raft.Raft, ref *clusterv1.SnapshotRef) error {
	_, leader := r.LeaderWithID()
	servers := slices.Clone(r.GetConfiguration().Configuration().Servers)
	slices.SortStableFunc(servers, func(a, b raft.Server) int { // the leader, which has sent the command, first
		switch leader {
		case a.ID:
			return -1
		case b.ID:
			return 1
		}
		return 0
	})
	var errs []error
	for _, s := range servers {
		if s.ID == n.serverID() {
			continue
		}
		err := n.fetchFrom(ctx, s.ID, ref)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("%s: %s", s.ID, status.Convert(err).Message()))
	}
	return errors.Join(errs...)
}

func (n *Node) fetchFrom(ctx context.Context, id raft.ServerID, ref *clusterv1.SnapshotRef) error {
	client, err := n.restoreClient(id)
	if err != nil {
		return err
	}
	for offset := uint64(0); ; {
		part, cancel := context.WithTimeout(ctx, restorePartTimeout)
		res, err := client.GetSnapshot(part, &clusterv1.GetSnapshotRequest{Snapshot: ref, Offset: offset})
		cancel()
		if err != nil {
			return err
		}
		complete, err := n.restores.Put(ref, "", 0, offset, res.GetPart())
		if err != nil || complete {
			return err
		}
		offset += uint64(len(res.GetPart()))
	}
}

// openRestores opens the snapshots of restores and finds the entries of the log that name them.
func (n *Node) openRestores(log raft.LogStore) (err error) {
	if n.restores, err = restorefiles.Open(n.dir.Path()); err != nil {
		return err
	}
	if n.restores.Empty() {
		return nil
	}
	first, err1 := log.FirstIndex()
	last, err2 := log.LastIndex()
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	for i := first; i <= last && last > 0; i++ {
		var entry raft.Log
		if err := log.GetLog(i, &entry); err != nil {
			return fmt.Errorf("open the log: %w", err)
		}
		var cmd clusterv1.Command
		if entry.Type == raft.LogCommand && proto.Unmarshal(entry.Data, &cmd) == nil && cmd.GetRestore() != nil {
			n.restores.Named(cmd.GetRestore(), i)
		}
	}
	return nil
}

// cleanRestores removes snapshots of restores that are no longer needed, until ctx ends.
func (n *Node) cleanRestores(ctx context.Context) {
	n.restores.StartAt(n.raft.Load().CurrentTerm())
	t := time.NewTicker(restoreCleanInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if n.restores.Empty() {
			continue
		}
		first, err := n.log.FirstIndex()
		if err == nil {
			err = n.restores.Clean(n.fsm.Term(), first)
		}
		if err != nil {
			n.cfg.Logger.Warn("cannot remove a snapshot that is no longer needed", "node", n.cfg.Name, "err", err)
		}
	}
}
