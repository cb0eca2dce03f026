package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hashicorp/raft"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

const (
	// maxRepairs is how often a node replaces its state within repairWindow. A state that differs
	// again at once has a lasting cause, which another replacement would not remove.
	maxRepairs   = 3
	repairWindow = time.Hour
	// minRepairPause and maxRepairPause bound the pause after a state could not be fetched. It
	// doubles with each failure.
	minRepairPause, maxRepairPause = time.Second, time.Minute
	// repairTimeout bounds the transfer of a state. This node applies no commands meanwhile.
	repairTimeout = 10 * time.Minute
	// storeTimeout bounds the attempts to store the new state in a snapshot, with storePause between
	// them.
	storeTimeout, storePause = time.Minute, 200 * time.Millisecond
)

// hashes holds what a node knows about its own state in comparison with that of the others.
type hashes struct {
	found    atomic.Uint64 // see DivergencesFound
	repaired atomic.Uint64 // see Repairs

	wake chan struct{} // full while repairLoop has to look; capacity 1

	mu      sync.Mutex
	wrong   *wrongState // nil if no leader has reported a divergence
	repairs []time.Time // ends of the replacements within repairWindow, in order
}

// wrongState is a divergence that a leader has reported.
type wrongState struct {
	replacements uint64 // the report is about the state between this replacement and the next
	own, right   *clusterv1.Checkpoint
}

// exhausted reports whether a node may not replace its state again at a time.
func exhausted(repairs []time.Time, now time.Time) bool {
	recent := 0
	for _, at := range repairs {
		if now.Sub(at) < repairWindow {
			recent++
		}
	}
	return recent >= maxRepairs
}

// noteDivergence records that the state of this node differs from that of the majority, if it has
// the checkpoint and its own hash is another one. A report about a state that was replaced since
// has no effect.
func (n *Node) noteDivergence(d *clusterv1.Divergence) {
	right := d.GetCheckpoint()
	if right == nil {
		return
	}
	replacements := n.fsm.replacements()
	for _, own := range n.checkpoints() {
		if own.GetVersion() != right.GetVersion() || own.GetIndex() != right.GetIndex() || own.GetHash() == right.GetHash() {
			continue
		}
		known := n.Diverged() != nil
		n.hashes.mu.Lock()
		n.hashes.wrong = &wrongState{replacements, own, right}
		n.hashes.mu.Unlock()
		if !known {
			n.cfg.Logger.Error("the replicated state of this node differs from that of the majority: this node serves no clients until its state is replaced",
				"node", n.cfg.Name, "index", own.GetIndex(), "version", own.GetVersion(), "hash", hashText(own), "majority", hashText(right))
		}
		select {
		case n.hashes.wake <- struct{}{}:
		default:
		}
		return
	}
}

// Diverged returns an error while the replicated state of this node differs from that of the
// majority. The node must not serve clients then.
func (n *Node) Diverged() error {
	n.hashes.mu.Lock()
	defer n.hashes.mu.Unlock()
	w := n.hashes.wrong
	if w == nil || w.replacements != n.fsm.replacements() {
		return nil
	}
	what := "the node replaces it"
	if exhausted(n.hashes.repairs, time.Now()) {
		what = fmt.Sprintf("it differs again after %d replacements: see 'A node has a different state' in the runbooks", len(n.hashes.repairs))
	}
	return fmt.Errorf("the replicated state of this node differs from that of the majority since index %d or before (hash %s, majority %s): %s",
		w.own.GetIndex(), hashText(w.own), hashText(w.right), what)
}

// Repairs returns how often this process has replaced its state because it differed from that of
// the majority.
func (n *Node) Repairs() uint64 { return n.hashes.repaired.Load() }

// repairLoop replaces the state of this node when a leader has reported that it is wrong, until ctx
// ends. A node that leads hands over first.
func (n *Node) repairLoop(ctx context.Context) {
	pause := minRepairPause
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.hashes.wake:
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

// replaceable returns an error while the state of this node is wrong and will be replaced. A
// snapshot would only keep it. A state that is not replaced any more is stored, so that the log
// does not grow without limit.
func (n *Node) replaceable() error {
	if err := n.Diverged(); err != nil && n.mayRepair() {
		return err
	}
	return nil
}

func (n *Node) mayRepair() bool {
	n.hashes.mu.Lock()
	defer n.hashes.mu.Unlock()
	now := time.Now()
	for len(n.hashes.repairs) > 0 && now.Sub(n.hashes.repairs[0]) >= repairWindow {
		n.hashes.repairs = n.hashes.repairs[1:]
	}
	return !exhausted(n.hashes.repairs, now)
}

// repair replaces the state of this node by that of the leader, and stores it in a snapshot, so
// that a restart does not bring the former state back.
func (n *Node) repair(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, repairTimeout)
	defer cancel()
	index := n.fsm.hold()
	raw, err := n.fetchState(ctx, index)
	if err == nil {
		err = n.fsm.exchange(raw, n.log)
	}
	if err != nil {
		return errors.Join(err, n.fsm.release(n.log))
	}
	n.hashes.mu.Lock()
	n.hashes.repairs = append(n.hashes.repairs, time.Now())
	n.hashes.mu.Unlock()
	n.hashes.repaired.Add(1)
	n.cfg.Logger.Warn("the state of this node was replaced by that of the leader", "node", n.cfg.Name, "held_at", index, "bytes", len(raw), "index", n.fsm.index())
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

// fetchState returns the state of the leader, which contains the command at index.
func (n *Node) fetchState(ctx context.Context, index uint64) ([]byte, error) {
	_, id := n.raft.Load().LeaderWithID()
	if id == "" || id == n.serverID() {
		return nil, ErrNoLeader
	}
	client, err := n.restoreClient(id)
	if err != nil {
		return nil, err
	}
	ctx, done := n.whileLed(ctx, id)
	defer done()
	stream, err := client.GetState(ctx, &clusterv1.GetStateRequest{Index: index})
	if err != nil {
		return nil, fmt.Errorf("fetch the state of %s: %w", nameOf(id), err)
	}
	var raw bytes.Buffer
	for {
		res, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return raw.Bytes(), nil
		case err != nil:
			return nil, fmt.Errorf("fetch the state of %s: %w", nameOf(id), err)
		case raw.Len()+len(res.GetPart()) > MaxSnapshotBytes:
			return nil, fmt.Errorf("the state of %s has more than %d bytes", nameOf(id), MaxSnapshotBytes)
		}
		raw.Write(res.GetPart())
	}
}

// GetState streams the state of this node to a member whose own state is wrong.
func (a restoreAPI) GetState(req *clusterv1.GetStateRequest, stream clusterv1.Restore_GetStateServer) error {
	n := a.node
	if !n.leading() {
		return status.Error(codes.FailedPrecondition, ErrNoLeader.Error())
	}
	if err := n.Diverged(); err != nil {
		return status.Error(codes.FailedPrecondition, err.Error())
	}
	select {
	case n.stateBusy <- struct{}{}:
		defer func() { <-n.stateBusy }()
	default:
		return status.Error(codes.ResourceExhausted, "another member fetches the state: ask again")
	}
	ctx, cancel := n.untilClosed(stream.Context())
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, repairTimeout)
	defer stop()
	if err := n.fsm.wait(ctx, req.GetIndex()); err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	s, err := n.fsm.capture(ctx)
	if err != nil {
		return status.Error(codes.Unavailable, err.Error())
	}
	w := partWriter{send: func(part []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return stream.Send(&clusterv1.GetStateResponse{Part: part})
	}}
	err = writeSnapshot(&w, s.at, s.state)
	if err == nil {
		err = w.flush()
	}
	return err
}

// partWriter collects what is written and sends it in parts of restorePartBytes.
type partWriter struct {
	send func(part []byte) error
	buf  []byte
}

func (w *partWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	for len(w.buf) >= restorePartBytes {
		if err := w.send(w.buf[:restorePartBytes]); err != nil {
			return 0, err
		}
		w.buf = append([]byte(nil), w.buf[restorePartBytes:]...)
	}
	return len(p), nil
}

func (w *partWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	return w.send(w.buf)
}
