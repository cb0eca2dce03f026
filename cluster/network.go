package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Network connects a node to the others of its cluster.
type Network interface {
	// Open starts to serve the peer API for a node. It does not block.
	Open(local Local) error
	// Raft returns the transport of Raft. It is valid after Open.
	Raft() raft.Transport
	// Conn returns a connection to the peer API of the server id, or of any server at the address
	// if id is empty. It does not wait for the connection. Connections are shared: do not close
	// them.
	Conn(id raft.ServerID, address string) (grpc.ClientConnInterface, error)
	// Probe reports whether the peer port at address accepts connections.
	Probe(ctx context.Context, address string) error
	// Address returns the address at which others reach this node.
	Address() string
	// Close closes all connections and waits for all goroutines of the network.
	Close() error
}

// Local is the part of a node that its Network uses.
type Local interface {
	// Identity returns the node's current identity.
	Identity() *clusterv1.Identity
	// Admission returns a function that returns an error if a Raft connection must be refused. from is
	// the node at the other end, to the server id that it expects here. Both ends call it, before the
	// other end makes its identity: the function compares the last index in it with what that server
	// had acknowledged before the call of Admission.
	Admission() (admit func(from *clusterv1.Identity, to string) error)
	// AddressOf returns the last known address of a server, or "".
	AddressOf(id raft.ServerID) string
	// Lost reports that a connection of Raft to or from the server has ended.
	Lost(id raft.ServerID)
	// Register adds the services of the peer API.
	Register(r grpc.ServiceRegistrar)
}

// lone is the network of a group of one. It reaches no other node.
type lone struct {
	trans   raft.Transport
	address string
}

func newLone(address string) *lone {
	_, t := raft.NewInmemTransport(raft.ServerAddress(address))
	return &lone{t, address}
}

func (l *lone) Open(Local) error     { return nil }
func (l *lone) Raft() raft.Transport { return l.trans }
func (l *lone) Address() string      { return l.address }
func (l *lone) Close() error         { return nil }

func (l *lone) Conn(raft.ServerID, string) (grpc.ClientConnInterface, error) {
	return nil, errAlone
}

func (l *lone) Probe(context.Context, string) error { return errAlone }

// consumer is a transport that also delivers calls of this node to itself: elect adds a call that
// makes Raft start an election.
type consumer struct {
	raft.Transport
	// may returns an error if a message to that server must not leave this node.
	may func(to raft.ServerID) error
	// stand returns an error if this node must not stand for election; nil if it always may.
	stand func() error
	// contains is Node.containsSnapshot; nil if snapshots of leaders are always installed.
	contains func(*raft.InstallSnapshotRequest) (bool, error)
	// beginsAfter is Node.logBeginsAfter; nil if Raft always checks the entry before new ones.
	beginsAfter func(index, term uint64) bool
	calls       chan raft.RPC
	stop        chan struct{}
	done        chan struct{}
	once        sync.Once
	// refused counts the entries that this node has refused in a row, for retriedSoon.
	refused int
	replies sync.WaitGroup
}

// newConsumer starts a consumer. The functions in set, which may set its other fields, run before.
func newConsumer(t raft.Transport, may func(raft.ServerID) error, set ...func(*consumer)) *consumer {
	c := &consumer{Transport: t, may: may, calls: make(chan raft.RPC), stop: make(chan struct{}), done: make(chan struct{})}
	for _, f := range set {
		f(c)
	}
	go c.run()
	return c
}

func (c *consumer) run() {
	defer close(c.done)
	for {
		select {
		case <-c.stop:
			return
		case rpc := <-c.Transport.Consumer():
			if c.declines(rpc) || c.hasSnapshot(rpc) {
				continue
			}
			select {
			case c.calls <- c.retriedSoon(c.afterSnapshot(rpc)):
			case <-c.stop:
				return
			}
		}
	}
}

// Consumer returns the channel of incoming calls.
func (c *consumer) Consumer() <-chan raft.RPC { return c.calls }

// elect asks this node to start an election now. It blocks until Raft has handled the call or ctx
// ends.
func (c *consumer) elect(ctx context.Context) {
	res := make(chan raft.RPCResponse, 1)
	select {
	case c.calls <- raft.RPC{Command: &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}, RespChan: res}:
	case <-ctx.Done():
		return
	case <-c.stop:
		return
	}
	select {
	case <-res:
	case <-ctx.Done():
	case <-c.stop:
	}
}

func (c *consumer) close() {
	c.once.Do(func() { close(c.stop) })
	<-c.done
	c.replies.Wait()
}

// AppendEntries sends entries or a heartbeat and waits for the response.
func (c *consumer) AppendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, res *raft.AppendEntriesResponse) error {
	if err := c.may(id); err != nil {
		return err
	}
	return c.Transport.AppendEntries(id, target, req, res)
}

// AppendEntriesPipeline opens a stream that sends entries without waiting for the responses.
func (c *consumer) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	if err := c.may(id); err != nil {
		return nil, err
	}
	p, err := c.Transport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return pipeline{p, c, id}, nil
}

type pipeline struct {
	raft.AppendPipeline
	c  *consumer
	id raft.ServerID
}

// AppendEntries sends entries without waiting for the response. If the pipeline accepts no more for
// raftTimeout, AppendEntries closes it. The danger: once Raft has seen a newer term, it reads no
// more responses. Its sender would then block here for ever, and Shutdown would wait for the sender
// (hashicorp/raft 1.8, netPipeline.AppendEntries).
func (p pipeline) AppendEntries(req *raft.AppendEntriesRequest, res *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if err := p.c.may(p.id); err != nil {
		return nil, err
	}
	stuck := time.AfterFunc(raftTimeout, func() { _ = p.Close() })
	defer stuck.Stop()
	return p.AppendPipeline.AppendEntries(req, res)
}

// RequestVote requests a vote.
func (c *consumer) RequestVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestVoteRequest, res *raft.RequestVoteResponse) error {
	if err := c.mayStand(id); err != nil {
		return err
	}
	return c.Transport.RequestVote(id, target, req, res)
}

// RequestPreVote requests a pre-vote. Embedding alone would hide this method of the transport from
// Raft.
func (c *consumer) RequestPreVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestPreVoteRequest, res *raft.RequestPreVoteResponse) error {
	if err := c.mayStand(id); err != nil {
		return err
	}
	if t, ok := c.Transport.(raft.WithPreVote); ok {
		return t.RequestPreVote(id, target, req, res)
	}
	return raft.ErrTransportShutdown
}

// Close closes the wrapped transport.
func (c *consumer) Close() error {
	if t, ok := c.Transport.(raft.WithClose); ok {
		return t.Close()
	}
	return nil
}

// raftTimeout bounds one call of Raft, its dial included.
const raftTimeout = 10 * time.Second

// Nowhere returns a network that reaches no node, for work on the data of a stopped node. address
// is recorded as the node's own.
func Nowhere(address string) Network { return newLone(address) }
