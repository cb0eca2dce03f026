package cluster

import (
	"fmt"
	"time"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// noteDivergence handles a report of the leader, which names a checkpoint and the hash of the
// majority. If the state of this node has another hash at this checkpoint, the node records that
// its state is wrong. A report about a state that was replaced meanwhile has no effect.
func (n *Node) noteDivergence(d *clusterv1.Divergence) {
	right := d.GetCheckpoint()
	if right == nil {
		return
	}
	replacements := n.fsm.Replacements()
	for _, own := range n.checkpoints() {
		if own.GetVersion() != right.GetVersion() || own.GetIndex() != right.GetIndex() || own.GetHash() == right.GetHash() {
			continue
		}
		known := n.Diverged() != nil
		n.divergences.mu.Lock()
		n.divergences.wrong = &wrongState{replacements, own, right}
		n.divergences.mu.Unlock()
		if !known {
			n.cfg.Logger.Error("the replicated state of this node differs from that of the majority: this node serves no clients until its state is replaced",
				"node", n.cfg.Name, "index", own.GetIndex(), "version", own.GetVersion(), "hash", hashText(own), "majority", hashText(right))
		}
		select {
		case n.divergences.wake <- struct{}{}:
		default:
		}
		return
	}
}

// Diverged returns an error while the replicated state of this node differs from that of the
// majority. The node must not serve clients then.
func (n *Node) Diverged() error {
	n.divergences.mu.Lock()
	defer n.divergences.mu.Unlock()
	w := n.divergences.wrong
	if w == nil || w.replacements != n.fsm.Replacements() {
		return nil
	}
	what := "the node replaces it"
	if exhausted(n.divergences.repairs, time.Now()) {
		what = fmt.Sprintf("it differs again after %d replacements: see 'A node has a different state' in the runbooks", len(n.divergences.repairs))
	}
	return fmt.Errorf("the replicated state of this node differs from that of the majority since index %d or before (hash %s, majority %s): %s",
		w.own.GetIndex(), hashText(w.own), hashText(w.right), what)
}

// Repairs returns how often this process has replaced its state because it differed from that of
// the majority.
func (n *Node) Repairs() uint64 { return n.divergences.repaired.Load() }

// replaceable returns an error while the state of this node is wrong and will be replaced. Then
// Raft takes no snapshot, because it would keep the wrong state. If the node replaces its state no
// more, Raft takes snapshots again, so that the log does not grow without limit.
func (n *Node) replaceable() error {
	if err := n.Diverged(); err != nil && n.mayRepair() {
		return err
	}
	return nil
}

func (n *Node) mayRepair() bool {
	n.divergences.mu.Lock()
	defer n.divergences.mu.Unlock()
	now := time.Now()
	for len(n.divergences.repairs) > 0 && now.Sub(n.divergences.repairs[0]) >= repairWindow {
		n.divergences.repairs = n.divergences.repairs[1:]
	}
	return !exhausted(n.divergences.repairs, now)
}

// Hasher is a StateMachine that hashes its state at fixed points of the log. The leader compares
// the hashes of the members.
type Hasher interface {
	// Checkpoints returns the hashes of the state at the last checkpoints since Restore, by
	// ascending index. The caller must not change them. It may be called at any time.
	Checkpoints() []*clusterv1.Checkpoint
}

func (n *Node) checkpoints() []*clusterv1.Checkpoint {
	if h, ok := n.cfg.StateMachine.(Hasher); ok {
		return h.Checkpoints()
	}
	return nil
}

func hashText(c *clusterv1.Checkpoint) string { return fmt.Sprintf("%016x", c.GetHash()) }
