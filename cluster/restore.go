package cluster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

const (
	// restorePartTimeout bounds the transfer of one part of a snapshot.
	restorePartTimeout = 10 * time.Second
	// restoreFetchTimeout is how long a node looks for a snapshot that it must apply before it stops.
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
// nodes replace their state at this point of the log, or none does. An error wraps ErrNotRestored if
// none does, and ErrOutcomeUnknown if the command may still be committed.
func (n *Node) RestoreSnapshot(ctx context.Context, raw []byte) error {
	n.mu.Lock()
	leads, term := n.leads, n.term
	n.mu.Unlock()
	if !leads {
		return ErrNoLeader
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
	defer n.restores.use(ref)()
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
		return r.n.restores.put(r.ref, r.id, r.term, offset, part)
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
	s := n.peers.get(id)
	return s.ping != nil && !s.dead && time.Since(s.pingAt) < 4*n.cfg.PingInterval
}

// send calls put with one part after the other until put returns true.
func (r *restoreAttempt) send(ctx context.Context, put func(ctx context.Context, offset uint64, part []byte) (bool, error)) (bool, error) {
	for offset := 0; offset < len(r.raw); {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		part := r.raw[offset:min(offset+restorePartBytes, len(r.raw))]
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
			ctx, cancel := context.WithTimeout(ctx, restorePartTimeout)
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
		_, err := n.commit(ctx, &clusterv1.Command{FeatureLevel: n.cfg.RestoreLevel, Restore: r.ref, Origin: string(n.serverID())})
		if !errors.Is(err, ErrClosed) {
			n.restoreMoves.Add(1)
		}
		if err == nil {
			n.clock.atLeast(n.cfg.StateMachine.LastTime())
		}
		done <- err
	})
	select {
	case err := <-done:
		if errors.Is(err, ErrNoLeader) {
			return fmt.Errorf("%w: %w", ErrNotRestored, err)
		}
		if err != nil {
			return fmt.Errorf("restore the snapshot: %w", err)
		}
		n.cfg.Logger.Warn("a snapshot has replaced the state", "node", n.cfg.Name, "sha256", nameOfRef(r.ref), "bytes", len(r.raw))
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: the restore is proposed: %w", ErrOutcomeUnknown, ctx.Err())
	}
}

// drop removes the snapshot of an attempt that has proposed nothing. Nodes that do not respond remove
// it in a later term.
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
	_ = r.n.restores.drop(r.ref, r.id)
}

// errStopsApplying means that the node is closed while it waits for a snapshot. It applies the
// command after its next start.
var errStopsApplying = fmt.Errorf("the node waits for a snapshot to restore: %w", ErrClosed)

// restoreData returns the snapshot that the command at index names. A node that does not have it
// fetches it from another member. It never returns without the snapshot or an error.
func (n *Node) restoreData(ref *clusterv1.SnapshotRef, index uint64) ([]byte, error) {
	n.restores.named(ref, index)
	ctx, cancel := n.untilClosed(context.Background())
	defer cancel()
	for deadline := time.Now().Add(restoreFetchTimeout); ; {
		raw, err := n.restores.read(ref)
		if err == nil {
			return raw, nil
		}
		if !n.alone() {
			err = n.fetchRestore(ctx, ref)
			if err == nil {
				continue
			}
		}
		if ctx.Err() != nil {
			return nil, errStopsApplying
		}
		if n.alone() || !time.Now().Before(deadline) {
			return nil, fmt.Errorf("the command at index %d restores the snapshot %s of %d bytes, which is not in %s and cannot be fetched from a member: start a member that has it, then this node (%w)",
				index, nameOfRef(ref), ref.GetSize(), n.restores.dir, err)
		}
		t := time.NewTimer(restoreFetchPause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
}

// fetchRestore fetches a snapshot from the first member that has it.
func (n *Node) fetchRestore(ctx context.Context, ref *clusterv1.SnapshotRef) error {
	r := n.raft.Load()
	if r == nil {
		return errors.New("this node is starting")
	}
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
		complete, err := n.restores.put(ref, "", 0, offset, res.GetPart())
		if err != nil || complete {
			return err
		}
		offset += uint64(len(res.GetPart()))
	}
}

// openRestores opens the snapshots of restores and finds the entries of the log that name them.
func (n *Node) openRestores(log raft.LogStore) (err error) {
	if n.restores, err = openRestoreFiles(n.dir.path); err != nil {
		return err
	}
	if n.restores.empty() {
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
			n.restores.named(cmd.GetRestore(), i)
		}
	}
	return nil
}

// cleanRestores removes snapshots of restores that are no longer needed, until ctx ends.
func (n *Node) cleanRestores(ctx context.Context) {
	n.restores.startAt(n.raft.Load().CurrentTerm())
	t := time.NewTicker(restoreCleanInterval)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if n.restores.empty() {
			continue
		}
		first, err := n.log.FirstIndex()
		if err == nil {
			err = n.restores.clean(n.fsm.term(), first)
		}
		if err != nil {
			n.cfg.Logger.Warn("cannot remove a snapshot that is no longer needed", "node", n.cfg.Name, "err", err)
		}
	}
}

// restoreAPI serves the transfer of snapshots to other nodes.
type restoreAPI struct {
	clusterv1.UnimplementedRestoreServer
	node *Node
}

// PutSnapshot stores a part of a snapshot. It refuses a leader of a former term.
func (a restoreAPI) PutSnapshot(_ context.Context, req *clusterv1.PutSnapshotRequest) (*clusterv1.PutSnapshotResponse, error) {
	r := a.node.raft.Load()
	if r == nil {
		return nil, errStarting
	}
	if term := r.CurrentTerm(); req.GetTerm() < term {
		return nil, status.Errorf(codes.FailedPrecondition, "the restore is of term %d, this node is in term %d", req.GetTerm(), term)
	}
	complete, err := a.node.restores.put(req.GetSnapshot(), req.GetAttempt(), req.GetTerm(), req.GetOffset(), req.GetPart())
	if err != nil {
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	}
	return &clusterv1.PutSnapshotResponse{Complete: complete}, nil
}

// DropSnapshot removes a snapshot that no command names.
func (a restoreAPI) DropSnapshot(_ context.Context, req *clusterv1.DropSnapshotRequest) (*clusterv1.DropSnapshotResponse, error) {
	if err := a.node.restores.drop(req.GetSnapshot(), req.GetAttempt()); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &clusterv1.DropSnapshotResponse{}, nil
}

// GetSnapshot returns a part of a snapshot.
func (a restoreAPI) GetSnapshot(_ context.Context, req *clusterv1.GetSnapshotRequest) (*clusterv1.GetSnapshotResponse, error) {
	part, err := a.node.restores.part(req.GetSnapshot(), req.GetOffset())
	if errors.Is(err, os.ErrNotExist) {
		return nil, status.Error(codes.NotFound, "this node does not have the snapshot")
	}
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &clusterv1.GetSnapshotResponse{Part: part}, nil
}
