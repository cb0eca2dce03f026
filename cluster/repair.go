package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// minRepairPause and maxRepairPause bound the pause after a state could not be fetched. It
	// doubles with each failure.
	minRepairPause, maxRepairPause = time.Second, time.Minute
	// repairTimeout bounds the transfer of a state. This node applies no commands meanwhile.
	repairTimeout = 10 * time.Minute
	// storeTimeout bounds the attempts to store the new state in a snapshot, with storePause
	// between them.
	storeTimeout, storePause = time.Minute, 200 * time.Millisecond
)

// repairLoop replaces the state of this node when a leader has reported that it is wrong, until ctx
// ends. A node that leads hands over first.
func (n *Node) repairLoop(ctx context.Context) {
	pause := minRepairPause
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.divergences.wake:
		}
		if n.Diverged() == nil || n.raft.Load().State() == raft.Leader || !n.mayRepair() {
			continue
		}
		err := n.repair(ctx)
		if err == nil {
			pause = minRepairPause
			continue
		}
		n.cfg.Logger.Warn("cannot replace the state of this node, will try again", "node", n.cfg.Name, "err", err)
		t := time.NewTimer(pause)
		pause = min(2*pause, maxRepairPause)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
	}
}

// repair replaces the state of this node by that of the leader, and stores it in a snapshot, so
// that a restart does not bring the former state back.
func (n *Node) repair(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	index := n.fsm.Hold()
	raw, err := n.fetchState(ctx, index)
	if err == nil {
		err = n.fsm.Exchange(raw, n.log)
	}
	if err != nil {
		return errors.Join(err, n.fsm.Release(n.log))
	}
	n.divergences.mu.Lock()
	n.divergences.repairs = append(n.divergences.repairs, time.Now())
	n.divergences.mu.Unlock()
	n.divergences.repaired.Add(1)
	n.cfg.Logger.Warn("the state of this node was replaced by that of the leader", "node", n.cfg.Name, "held_at", index, "bytes", len(raw), "index", n.fsm.Index())
	if err := n.storeState(ctx); err != nil {
		n.cfg.Logger.Warn("cannot store the new state in a snapshot now: a restart before the next snapshot may bring the former state back", "node", n.cfg.Name, "err", err)
	}
	return nil
}

// storeState takes a snapshot. It retries for storeTimeout: the new state may contain entries that
// Raft has not passed to this node yet.
func (n *Node) storeState(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	for {
		err := n.Snapshot(ctx)
		if err == nil {
			return nil
		}
		t := time.NewTimer(storePause)
		select {
		case <-ctx.Done():
			t.Stop()
			return err
		case <-t.C:
		}
	}
}
