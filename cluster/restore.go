package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/cluster/restorefiles"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// MaxSnapshotBytes is the size of the greatest snapshot that can be restored.
const MaxSnapshotBytes = restorefiles.MaxBytes

const (
	// restorePartTimeout bounds the transfer of one part of a snapshot. With the last part, the
	// receiver also reads and fsyncs the whole snapshot, which may take a second for each
	// restoreBytesPerSecond.
	restorePartTimeout    = 10 * time.Second
	restoreBytesPerSecond = 20 << 20
	// restoreFetchTimeout is how long a node looks for a snapshot that it must apply before it
	// stops.
	restoreFetchTimeout = 2 * time.Minute
	// restoreFetchPause is the pause between two rounds of that search.
	restoreFetchPause = 200 * time.Millisecond
	// restoreCleanInterval is how often a node looks for snapshots that are no longer needed.
	restoreCleanInterval = 30 * time.Second
)

// ErrNotRestored means that a restore has changed nothing: the state is that of before.
var ErrNotRestored = errors.New("the state is unchanged")

// RestoreSnapshot replaces the state of the whole cluster by raw, which SaveSnapshot wrote. On a
// node that does not lead it returns ErrNoLeader. Everything that was acknowledged after the
// snapshot was taken is lost. The snapshot is checked to its end, with Config.CheckSnapshot, before
// anything changes.
//
// The replacement is one command of the log. First, every member that responds stores the snapshot
// durably, and a majority of the voters must. Then the command names it by its hash. So either all
// nodes replace their state at this point of the log, or none does. An error wraps ErrNotRestored
// if none does, and ErrOutcomeUnknown if the command may still be committed.
func (n *Node) RestoreSnapshot(ctx context.Context, raw []byte) error {
	n.mu.Lock()
	leads, term := n.leads, n.term
	n.mu.Unlock()
	if !leads {
		return fmt.Errorf("%w: %w", ErrNotRestored, ErrNoLeader)
	}
	if level := n.cfg.CommittedLevel(); level < n.cfg.RestoreLevel {
		return fmt.Errorf("%w: a restore needs feature level %d, the cluster is at %d: start this version or a newer one on all members, wait until the level has risen ('image-builder cluster status'), and restore again",
			ErrNotRestored, n.cfg.RestoreLevel, level)
	}
	check := n.cfg.CheckSnapshot
	if check == nil {
		check = func(io.Reader) error { return nil }
	}
	if len(raw) > MaxSnapshotBytes {
		return fmt.Errorf("%w: the snapshot has more than %d bytes", ErrNotRestored, MaxSnapshotBytes)
	}
	if _, err := InspectSnapshot(bytes.NewReader(raw), check); err != nil {
		return fmt.Errorf("%w: %w", ErrNotRestored, err)
	}
	select {
	case n.restoreBusy <- struct{}{}:
	default:
		return fmt.Errorf("%w: another restore is in progress: ask again when it has ended", ErrNotRestored)
	}
	ctx, cancel := n.untilClosed(ctx)
	defer cancel()
	sum := sha256.Sum256(raw)
	ref := &clusterv1.SnapshotRef{Sha256: sum[:], Size: uint64(len(raw))}
	defer n.restores.Use(ref)()
	r := restoreAttempt{n: n, ref: ref, raw: raw, id: newID(), term: term}
	defer func() {
		if !r.proposed { // otherwise commit ends the attempt
			<-n.restoreBusy
		}
	}()
	err := r.distribute(ctx)
	if err == nil {
		err = r.commit(ctx)
	}
	if errors.Is(err, ErrNotRestored) {
		r.drop()
	}
	return err
}

// untilClosed returns a context that also ends when the node is closed. The caller calls cancel.
func (n *Node) untilClosed(ctx context.Context) (_ context.Context, cancel func()) {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { // ends when cancel is called
		defer close(done)
		select {
		case <-ctx.Done():
		case <-n.closed:
			stop()
		}
	}()
	return ctx, func() { stop(); <-done }
}

// restoreAttempt is one call of RestoreSnapshot on the leader.
type restoreAttempt struct {
	n    *Node
	ref  *clusterv1.SnapshotRef
	raw  []byte
	id   string // random
	term uint64 // term of this node as the leader

	proposed bool // restoreBusy is released once the outcome is known

	mu   sync.Mutex
	sent []raft.ServerID // other members to which a part was sent
}

// distribute stores the snapshot on this node and on all members that respond. It returns once all
// of them, and a majority of the voters, have fsynced it.
func (r *restoreAttempt) distribute(ctx context.Context) error {
	if _, err := r.send(ctx, func(_ context.Context, offset uint64, part []byte) (bool, error) {
		return r.n.restores.Put(r.ref, r.id, r.term, offset, part)
	}); err != nil {
		return fmt.Errorf("%w: this node, %s: %w", ErrNotRestored, r.n.cfg.Name, err)
	}
	has := map[raft.ServerID]bool{r.n.serverID(): true}
	for {
		servers := r.n.raft.Load().GetConfiguration().Configuration().Servers
		var next []raft.ServerID
		for _, s := range servers {
			if !has[s.ID] && r.n.responds(s.ID) {
				next = append(next, s.ID)
			}
		}
		if len(next) == 0 {
			return r.checkMajority(servers, has)
		}
		var wg sync.WaitGroup
		errs := make([]error, len(next))
		for i, id := range next {
			wg.Go(func() { errs[i] = r.sendTo(ctx, id) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return fmt.Errorf("%w: %w", ErrNotRestored, err)
		}
		for _, id := range next {
			has[id] = true
		}
	}
}

func (r *restoreAttempt) checkMajority(servers []raft.Server, has map[raft.ServerID]bool) error {
	voters, stored := 0, 0
	for _, s := range servers {
		if s.Suffrage == raft.Voter {
			voters++
			if has[s.ID] {
				stored++
			}
		}
	}
	if stored <= voters/2 {
		return fmt.Errorf("%w: only %d of %d voters respond", ErrNotRestored, stored, voters)
	}
	return nil
}

// responds reports whether a member has responded to one of the last pings of this leader.
func (n *Node) responds(id raft.ServerID) bool {
	_, alive := n.peers.alive(id)
	return alive
}

// send calls put with one part after the other until put returns true.
func (r *restoreAttempt) send(ctx context.Context, put func(ctx context.Context, offset uint64, part []byte) (bool, error)) (bool, error) {
	for offset := 0; offset < len(r.raw); {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		part := r.raw[offset:min(offset+restorefiles.PartBytes, len(r.raw))]
		complete, err := put(ctx, uint64(offset), part)
		if err != nil || complete {
			return complete, err
		}
		offset += len(part)
	}
	return false, errors.New("the snapshot is sent and not complete")
}

func (r *restoreAttempt) sendTo(ctx context.Context, id raft.ServerID) error {
	r.mu.Lock()
	r.sent = append(r.sent, id)
	r.mu.Unlock()
	client, err := r.n.restoreClient(id)
	if err == nil {
		_, err = r.send(ctx, func(ctx context.Context, offset uint64, part []byte) (bool, error) {
			timeout := restorePartTimeout
			if offset+uint64(len(part)) == r.ref.GetSize() {
				timeout += time.Duration(r.ref.GetSize()/restoreBytesPerSecond) * time.Second
			}
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			res, err := client.PutSnapshot(ctx, &clusterv1.PutSnapshotRequest{Snapshot: r.ref, Attempt: r.id, Term: r.term, Offset: offset, Part: part})
			return res.GetComplete(), err
		})
	}
	if err != nil {
		return fmt.Errorf("node %s does not store the snapshot: %s", id, status.Convert(err).Message())
	}
	return nil
}

func (n *Node) restoreClient(id raft.ServerID) (clusterv1.RestoreClient, error) {
	if err := n.mayCall(id); err != nil {
		return nil, err
	}
	conn, err := n.cfg.Network.Conn(id, n.addressOf(id))
	if err != nil {
		return nil, err
	}
	return clusterv1.NewRestoreClient(conn), nil
}

// commit commits the command that names the snapshot, in the term of the attempt. Read indexes wait
// until it is applied, because it may move the index of the state.
func (r *restoreAttempt) commit(ctx context.Context) error {
	n := r.n
	n.mu.Lock()
	leads := n.leads && n.term == r.term
	n.mu.Unlock()
	if !leads {
		return fmt.Errorf("%w: %w", ErrNotRestored, ErrNoLeader)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrNotRestored, err)
	}
	if n.beforeRestore != nil {
		n.beforeRestore()
	}
	r.proposed = true
	n.restoreMoves.Add(1)
	done := make(chan error, 1)
	n.done.Go(func() {
		ctx, cancel := n.untilClosed(context.Background())
		defer cancel()
		defer func() { <-n.restoreBusy }()
		level := max(n.cfg.RestoreLevel, n.cfg.CommittedLevel())
		res, err := n.commit(ctx, r.term, &clusterv1.Command{FeatureLevel: level, Restore: r.ref, Origin: string(n.serverID())})
		if ctx.Err() == nil { // a node that is closed leaves it odd: the command may be applied later
			n.restoreMoves.Add(1)
		}
		if stopped, ok := res.Result.(error); ok && err == nil {
			err = fmt.Errorf("%w: this node cannot apply it: %w", ErrOutcomeUnknown, stopped)
		}
		if err == nil {
			n.clock.AtLeast(n.cfg.StateMachine.LastTime())
		}
		done <- err
	})
	select {
	case err := <-done:
		if definitelyNotProposed(err) {
			return fmt.Errorf("%w: %w", ErrNotRestored, err)
		}
		if err != nil {
			return fmt.Errorf("restore the snapshot: %w", err)
		}
		n.cfg.Logger.Warn("a snapshot has replaced the state", "node", n.cfg.Name, "sha256", restorefiles.Name(r.ref), "bytes", len(r.raw))
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: the restore is proposed: %w", ErrOutcomeUnknown, ctx.Err())
	}
}

// definitelyNotProposed reports whether an error of Node.commit means that the command can never be
// committed.
func definitelyNotProposed(err error) bool {
	return !errors.Is(err, ErrOutcomeUnknown) && (errors.Is(err, ErrNoLeader) || errors.Is(err, ErrClosed) || errors.Is(err, ErrRefused))
}

// drop removes the snapshot of an attempt that has proposed nothing. Nodes that do not respond
// remove it in a later term.
func (r *restoreAttempt) drop() {
	ctx, cancel := r.n.untilClosed(context.Background())
	defer cancel()
	ctx, stop := context.WithTimeout(ctx, pingTimeout)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, id := range r.sent {
		if client, err := r.n.restoreClient(id); err == nil {
			wg.Go(func() {
				_, _ = client.DropSnapshot(ctx, &clusterv1.DropSnapshotRequest{Snapshot: r.ref, Attempt: r.id})
			})
		}
	}
	_ = r.n.restores.Drop(r.ref, r.id)
}
