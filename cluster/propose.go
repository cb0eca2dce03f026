package cluster

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
	"github.com/image-builder-ha/image-builder/tracing"
)

// trailTime is how long a node waits until it has applied itself what the
// leader has committed for it.
const trailTime = 5 * time.Second

// Propose commits a command and answers once it is applied here. On a node
// that does not lead it goes to the leader in one hop; while there is no
// leader it waits, as long as ctx allows. ErrNoLeader says that nothing was
// proposed, ErrOutcomeUnknown that the command may or may not come to be.
func (n *Node) Propose(ctx context.Context, cmd *clusterv1.Command) (Applied, error) {
	cmd.Origin = string(n.serverID())
	for {
		leads, changed := n.leadership()
		var res Applied
		err := ErrNoLeader
		if leads {
			res, err = n.proposeHere(ctx, cmd)
		} else if client, cerr := n.leaderClient(); cerr == nil {
			res, err = n.proposeThere(ctx, client, cmd)
		}
		if !errors.Is(err, ErrNoLeader) {
			return res, err
		}
		if err := n.hold(ctx, changed); err != nil {
			return Applied{}, err
		}
	}
}

// hold waits for a sign of a leader; all who wait come back at different
// moments.
func (n *Node) hold(ctx context.Context, changed <-chan struct{}) error {
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

// proposeHere commits a command on this node, if it leads.
func (n *Node) proposeHere(ctx context.Context, cmd *clusterv1.Command) (Applied, error) {
	if leads, _ := n.leadership(); !leads {
		return Applied{}, ErrNoLeader
	}
	if n.cfg.Prepare != nil {
		if err := n.cfg.Prepare(ctx, cmd); err != nil {
			return Applied{}, err
		}
	}
	return n.commit(ctx, cmd)
}

// proposeThere hands a command to the leader and waits until it is applied
// here: the result is what this node's own state answered.
func (n *Node) proposeThere(ctx context.Context, client clusterv1.PeerClient, cmd *clusterv1.Command) (Applied, error) {
	sent := proto.CloneOf(cmd)
	sent.Proposal = mathrand.Uint64()
	raw, err := proto.Marshal(sent)
	if err != nil {
		return Applied{}, fmt.Errorf("encode command: %w", err)
	}
	result, forget := n.fsm.expect(sent.Proposal)
	defer forget()
	replaced := n.fsm.replaced()
	call, done := n.whileLed(forwarded(ctx))
	_, err = client.Propose(call, &clusterv1.ProposeRequest{Command: raw})
	done()
	if err != nil {
		return Applied{}, forwardError(err)
	}
	trails := time.NewTimer(trailTime)
	defer trails.Stop()
	select {
	case res := <-result:
		return res, nil
	case <-trails.C:
		return Applied{}, ErrBehind
	case <-ctx.Done():
		return Applied{}, fmt.Errorf("%w: it is committed and not applied here yet: %w", ErrOutcomeUnknown, ctx.Err())
	case <-replaced:
		return Applied{}, fmt.Errorf("%w: this node was overtaken by a snapshot", ErrOutcomeUnknown)
	case <-n.closed:
		return Applied{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ErrClosed)
	}
}

// whileLed answers a context for a call to the leader that is known now. It
// ends when that one leads no more, as far as this node knows: nobody should
// wait for a host that is gone. Call done after the call.
func (n *Node) whileLed(ctx context.Context) (call context.Context, done func()) {
	call, cancel := context.WithCancel(ctx)
	_, former := n.raft.Load().LeaderWithID()
	go func() { // ends with the call
		for {
			_, changed := n.leadership()
			if _, id := n.raft.Load().LeaderWithID(); id != former {
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

// forwarded is ctx for a call that is made for another: it goes no further,
// and fails at once if the leader cannot be reached.
func forwarded(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, headForwarded, "1")
}

const headForwarded = "ib-forwarded"

// forwardError tells what became of a command that was handed to the leader.
func forwardError(err error) error {
	st := status.Convert(err)
	switch st.Code() {
	case codes.FailedPrecondition: // it says that it does not lead
		return ErrNoLeader
	case codes.Unavailable:
		if strings.HasPrefix(st.Message(), "connection error") { // not sent: there was no connection
			return ErrNoLeader
		}
		return fmt.Errorf("%w: the connection to the leader broke", ErrOutcomeUnknown)
	case codes.Unknown, codes.Canceled, codes.DeadlineExceeded:
		return fmt.Errorf("%w: %s", ErrOutcomeUnknown, st.Message())
	}
	return err // the leader refused to prepare it
}

// leaderClient answers the peer API of the leader that is known.
func (n *Node) leaderClient() (clusterv1.PeerClient, error) {
	r := n.raft.Load()
	if r == nil {
		return nil, ErrNoLeader
	}
	_, id := r.LeaderWithID()
	if id == "" || id == n.serverID() {
		return nil, ErrNoLeader
	}
	if err := n.mayCall(id); err != nil {
		return nil, err
	}
	conn, err := n.cfg.Network.Conn(id, n.addressOf(id))
	if err != nil {
		return nil, err
	}
	return clusterv1.NewPeerClient(conn), nil
}

// commit stamps and proposes a command on the leader.
func (n *Node) commit(ctx context.Context, cmd *clusterv1.Command) (_ Applied, err error) {
	ctx, span := tracing.Start(ctx, "raft apply")
	defer func() { tracing.End(span, err) }()
	cmd.TimeUnixNano = n.clock.stamp()
	raw, err := proto.Marshal(cmd)
	if err != nil {
		return Applied{}, fmt.Errorf("encode command: %w", err)
	}
	var f raft.ApplyFuture
	switch err := n.await(ctx, func() raft.Future { f = n.raft.Load().Apply(raw, 0); return f }); {
	case err == nil:
		return Applied{Index: f.Index(), Result: f.Response()}, nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return Applied{}, ErrNoLeader
	case errors.Is(err, ErrClosed):
		return Applied{}, ErrClosed
	case errors.Is(err, raft.ErrRaftShutdown):
		return Applied{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, ErrClosed)
	default: // leadership lost, storage, or the caller's time is over
		return Applied{}, fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
}

// await asks Raft for something and waits for its answer or for ctx. What Raft
// has queued when it is shut down it never answers: Close waits for what is
// under way before, and nothing is asked afterwards.
func (n *Node) await(ctx context.Context, ask func() raft.Future) error {
	if !n.asks.begin() {
		return ErrClosed
	}
	done := make(chan error, 1)
	go func() {
		defer n.asks.end()
		done <- ask().Error()
	}()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case err := <-done:
		return err
	}
}

// asks counts what Raft was asked for and has not answered.
type asks struct {
	mu     sync.Mutex
	count  int
	closed bool
	none   chan struct{} // closed when nothing is left, once closed is set
}

func (a *asks) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return false
	}
	a.count++
	return true
}

func (a *asks) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.count--; a.count == 0 && a.closed {
		close(a.none)
	}
}

// close refuses what comes and waits for what is under way, for a while.
func (a *asks) close(limit time.Duration) {
	a.mu.Lock()
	if a.closed {
		a.mu.Unlock()
		return
	}
	a.closed, a.none = true, make(chan struct{})
	left, none := a.count, a.none
	a.mu.Unlock()
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

// leadership reports whether this node leads, and answers what is closed when
// that, or the leader that is known, changes.
func (n *Node) leadership() (leads bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.leads, n.changed
}

func (n *Node) leading() bool {
	leads, _ := n.leadership()
	return leads
}

// clock stamps commands. Within a term it advances by the monotonic clock,
// whatever is done to the wall clock.
type clock struct {
	now func() time.Time

	mu    sync.Mutex
	base  time.Time // by now
	since time.Time // base by the monotonic clock
	last  int64
}

func newClock(now func() time.Time) *clock {
	return &clock{now: now, base: now(), since: time.Now()}
}

// begin starts a term after the greatest time that was applied before it.
func (c *clock) begin(last int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base, c.since = c.now(), time.Now()
	c.last = max(c.last, last)
}

func (c *clock) stamp() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, c.base.UnixNano()+int64(time.Since(c.since)))
	return c.last
}
