package cluster

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/cluster/raftlog"
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
// ends, or for noRoomTimeout if the disk of the leader is full; then the error wraps raftlog.ErrNoRoom, too.
// It returns ErrNoLeader if the command was not proposed, ErrRefused if the leader refused it,
// ErrOutcomeUnknown if it may or may not be committed, and ErrBehind if it is committed but was not
// applied here in time. It does not change cmd.
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
			if errors.Is(err, raftlog.ErrNoRoom) {
				return Applied{}, err
			}
			return Applied{}, werr
		}
	}
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

// prepareAndCommit commits what Config.Prepare makes of a command, in a term or in anyTerm. It
// returns ErrRefused if Config.Prepare refuses the command.
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
	result, forget := n.fsm.expect(sent.Proposal)
	defer forget()
	replaced := n.fsm.replaced()
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
	case <-n.fsm.stopped:
		return Applied{}, fmt.Errorf("%w (%w)", ErrBehind, n.fsm.failed())
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

// forwarded marks the context of a call that is made on behalf of another caller. The receiver does
// not forward it again.
func forwarded(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, headerForwarded, "1")
}

const headerForwarded = "ib-forwarded"

// leaderConn is a client of the peer API of a server that was the leader when it was made.
type leaderConn struct {
	clusterv1.PeerClient
	id raft.ServerID
}

// leader returns a client of the leader's peer API. It returns ErrNoLeader if no leader is known or
// if this node leads.
func (n *Node) leader() (leaderConn, error) {
	r := n.raft.Load()
	if r == nil {
		return leaderConn{}, ErrNoLeader
	}
	_, id := r.LeaderWithID()
	if id == "" || id == n.serverID() {
		return leaderConn{}, ErrNoLeader
	}
	if err := n.mayCall(id); err != nil {
		return leaderConn{}, err
	}
	conn, err := n.cfg.Network.Conn(id, n.addressOf(id))
	if err != nil {
		return leaderConn{}, err
	}
	return leaderConn{clusterv1.NewPeerClient(conn), id}, nil
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
		return Applied{}, fmt.Errorf("%w: %w", ErrNoLeader, err)
	}
	cmd = proto.CloneOf(cmd)
	cmd.TimeUnixNano = n.clock.stamp()
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
	switch err := n.await(ctx, apply); {
	case err == nil:
		if done, ok := f.Response().(Applied); ok {
			return done, nil
		}
		if f.Response() == errHeld {
			return Applied{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, errHeld)
		}
		return Applied{Index: f.Index(), Result: f.Response()}, nil // an error: the state machine has stopped
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

// await makes a call to Raft and waits for its result or the end of ctx. Raft never completes a
// call that is queued when it shuts down. So Close waits for the calls in progress before, and
// await returns ErrClosed afterwards.
func (n *Node) await(ctx context.Context, call func() raft.Future) error {
	if !n.raftCalls.begin() {
		return ErrClosed
	}
	done := make(chan error, 1)
	go func() {
		defer n.raftCalls.end()
		done <- call().Error()
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-done:
		return err
	}
}

// callCounter counts the calls to Raft that are in progress.
type callCounter struct {
	mu     sync.Mutex
	count  int
	closed bool
	none   chan struct{} // closed when closed is set and count is 0
}

func (c *callCounter) begin() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.count++
	return true
}

func (c *callCounter) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.count--; c.count == 0 && c.closed {
		close(c.none)
	}
}

// close refuses new calls and waits for those in progress, at most for limit.
func (c *callCounter) close(limit time.Duration) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed, c.none = true, make(chan struct{})
	left, none := c.count, c.none
	c.mu.Unlock()
	if left == 0 {
		return
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-none:
	case <-t.C:
	}
}

// leadership reports whether this node leads. changed is closed when that or the known leader
// changes.
func (n *Node) leadership() (leads bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leads, n.changed
}

func (n *Node) leading() bool {
	leads, _ := n.leadership()
	return leads
}
