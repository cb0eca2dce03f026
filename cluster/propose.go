package cluster

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/cluster/fsm"
	"github.com/image-builder-ha/image-builder/cluster/raftlog"
	"github.com/image-builder-ha/image-builder/faults"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/tracing"
)

// applyTimeout is how long a node waits to apply a command that the leader has committed for it.
const applyTimeout = 5 * time.Second

// noRoomTimeout is how long Propose waits for another leader if the disk of the leader is full. The
// caller then learns the reason before its own time is over.
const noRoomTimeout = 2 * time.Second

// Propose commits a command and returns its result once it is applied on this node. A node that
// does not lead sends the command to the leader. While there is no leader, Propose waits until ctx
// ends, or for noRoomTimeout if the disk of the leader is full; then the error says so, and wraps
// raftlog.ErrNoRoom, too. It returns ErrNoLeader if the command was not proposed, ErrRefused if the
// leader refused it, ErrOutcomeUnknown if it may or may not be committed, and ErrBehind if it is
// committed but was not applied here in time. It does not change cmd.
func (n *Node) Propose(ctx context.Context, cmd *clusterv1.Command) (Applied, error) {
	cmd = n.originated(cmd)
	begin := time.Now()
	for {
		leads, changed := n.leadership()
		var res Applied
		err := ErrNoLeader
		if leads {
			res, err = n.proposeHere(ctx, cmd)
		} else if leader, cerr := n.leader(); cerr == nil {
			res, err = n.proposeThere(ctx, leader, cmd)
		}
		if !errors.Is(err, ErrNoLeader) {
			return res, err
		}
		if errors.Is(err, raftlog.ErrNoRoom) && time.Since(begin) > noRoomTimeout {
			return Applied{}, err
		}
		if werr := n.waitForLeader(ctx, changed); werr != nil {
			if errors.As(err, new(*diskRefusal)) && !errors.Is(werr, ErrClosed) {
				return Applied{}, err
			}
			return Applied{}, werr
		}
	}
}

// proposeIn is Term.Propose.
func (n *Node) proposeIn(ctx context.Context, t *Term, cmd *clusterv1.Command) (Applied, error) {
	if faults.Mutant("deposed-leader-schedules") {
		return n.Propose(ctx, cmd)
	}
	// Raft may lead a later term already, before leaderLoop has ended this one.
	if !n.leadsIn(t) || n.raft.Load().CurrentTerm() != t.number {
		return Applied{}, ErrNoLeader
	}
	return n.prepareAndCommit(ctx, t.number, n.originated(cmd))
}

// originated returns a copy of a command that names this node as its origin.
func (n *Node) originated(cmd *clusterv1.Command) *clusterv1.Command {
	cmd = proto.CloneOf(cmd)
	cmd.Origin = string(n.serverID())
	return cmd
}

// waitForLeader waits until changed is closed, or for at most 100 ms. A random delay spreads the
// retries of concurrent waiters. It returns an error if ctx ends or the node is closed.
func (n *Node) waitForLeader(ctx context.Context, changed <-chan struct{}) error {
	t := time.NewTimer(50*time.Millisecond + mathrand.N(50*time.Millisecond))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w (%w)", ErrNoLeader, ctx.Err())
	case <-n.closed:
		return ErrClosed
	case <-t.C:
		return nil
	case <-changed:
	}
	t.Reset(mathrand.N(5 * time.Millisecond))
	select {
	case <-ctx.Done():
		return fmt.Errorf("%w (%w)", ErrNoLeader, ctx.Err())
	case <-n.closed:
		return ErrClosed
	case <-t.C:
		return nil
	}
}

// proposeHere commits a command on this node. It returns ErrNoLeader if this node does not lead,
// and ErrRefused if Config.Prepare refuses the command. It does not change cmd, so that the caller
// can propose it again.
func (n *Node) proposeHere(ctx context.Context, cmd *clusterv1.Command) (Applied, error) {
	if leads, _ := n.leadership(); !leads {
		return Applied{}, ErrNoLeader
	}
	return n.prepareAndCommit(ctx, anyTerm, cmd)
}

// prepareAndCommit commits the command that Config.Prepare returns for a command, in a term or in
// anyTerm. It returns ErrRefused if Config.Prepare refuses the command.
func (n *Node) prepareAndCommit(ctx context.Context, term uint64, cmd *clusterv1.Command) (Applied, error) {
	prepared := cmd
	if n.cfg.Prepare != nil {
		var err error
		if prepared, err = n.cfg.Prepare(ctx, cmd); err != nil {
			return Applied{}, fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
	return n.commit(ctx, term, prepared)
}

// proposeThere sends a command to the leader and waits until it is applied on this node. The result
// is that of this node's own state machine.
func (n *Node) proposeThere(ctx context.Context, leader leaderConn, cmd *clusterv1.Command) (Applied, error) {
	sent := proto.CloneOf(cmd)
	sent.Proposal = mathrand.Uint64()
	raw, err := proto.Marshal(sent)
	if err != nil {
		return Applied{}, fmt.Errorf("%w: encode command: %w", ErrRefused, err)
	}
	result, forget := n.fsm.Expect(sent.Proposal)
	defer forget()
	replaced := n.fsm.Replaced()
	call, done := n.whileLed(forwarded(ctx), leader.id)
	responded := n.reach.begin()
	_, err = leader.Propose(call, &clusterv1.ProposeRequest{Command: raw})
	responded(err)
	done()
	if err != nil {
		return Applied{}, forwardError(err)
	}
	behind := time.NewTimer(applyTimeout)
	defer behind.Stop()
	select {
	case res := <-result:
		return res, nil
	case <-behind.C:
		return Applied{}, ErrBehind
	case <-n.fsm.Stopped():
		return Applied{}, fmt.Errorf("%w (%w)", ErrBehind, n.fsm.Failed())
	case <-ctx.Done():
		return Applied{}, fmt.Errorf("%w: it is committed and not applied here yet: %w", ErrOutcomeUnknown, ctx.Err())
	case <-replaced:
		return Applied{}, fmt.Errorf("%w: a snapshot has replaced the state of this node", ErrOutcomeUnknown)
	case <-n.closed:
		return Applied{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ErrClosed)
	}
}

// whileLed returns a context for a call to a server that was the leader when its connection was
// chosen. It ends when this node learns that there is another leader or none, so that no call waits
// for a lost host. The caller calls done after the call.
func (n *Node) whileLed(ctx context.Context, leader raft.ServerID) (call context.Context, done func()) {
	call, cancel := context.WithCancel(ctx)
	go func() { // ends when done is called
		for {
			_, changed := n.leadership()
			if _, id := n.raft.Load().LeaderWithID(); id != leader {
				cancel()
			}
			select {
			case <-call.Done():
				return
			case <-n.closed:
				cancel()
				return
			case <-changed:
			}
		}
	}()
	return call, cancel
}

// anyTerm lets commit propose a command in whatever term this node leads.
const anyTerm = 0

// commit proposes a copy of a command, with the time, on the leader. If the term of Raft is not the
// given one, it returns ErrNoLeader and proposes nothing: a decision of a former term must not take
// effect, not even if this node leads again.
func (n *Node) commit(ctx context.Context, term uint64, cmd *clusterv1.Command) (_ Applied, err error) {
	ctx, span := tracing.Start(ctx, "raft apply")
	defer func() { tracing.End(span, err) }()
	if err := n.diskProblem(); err != nil { // refused before Raft writes it
		n.logs.Report()
		return Applied{}, refuseForDisk(n.cfg.Name, err)
	}
	cmd = proto.CloneOf(cmd)
	cmd.TimeUnixNano = n.clock.Stamp()
	raw, err := proto.Marshal(cmd)
	if err != nil {
		return Applied{}, fmt.Errorf("%w: encode command: %w", ErrRefused, err)
	}
	var f raft.ApplyFuture
	apply := func() raft.Future {
		if r := n.raft.Load(); term == anyTerm || r.CurrentTerm() == term {
			f = r.Apply(raw, 0)
			return f
		}
		return failedFuture{raft.ErrNotLeader}
	}
	switch err := n.raftCalls.await(ctx, apply); {
	case err == nil:
		if done, ok := f.Response().(Applied); ok {
			return done, nil
		}
		if f.Response() == fsm.ErrHeld {
			return Applied{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, fsm.ErrHeld)
		}
		return Applied{Index: f.Index(), Result: f.Response()}, nil // an error: the state machine has stopped
	case errors.Is(err, raft.ErrLeadershipTransferInProgress) && n.diskProblem() != nil:
		return Applied{}, refuseForDisk(n.cfg.Name, n.diskProblem())
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return Applied{}, ErrNoLeader
	case errors.Is(err, ErrClosed):
		return Applied{}, ErrClosed
	case errors.Is(err, raft.ErrRaftShutdown):
		return Applied{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ErrClosed)
	default: // leadership lost, a storage error, or ctx has ended
		return Applied{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
}
