package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Network is how a node reaches the others of its cluster.
type Network interface {
	// Open begins to serve the peer API for a node.
	Open(local Local) error
	// Raft answers the transport of Raft.
	Raft() raft.Transport
	// Conn answers a connection to the peer API of a server, or of whoever is
	// at the address if id is empty. It does not wait for it.
	Conn(id raft.ServerID, address string) (grpc.ClientConnInterface, error)
	// Probe reports whether somebody accepts connections at the peer port.
	Probe(ctx context.Context, address string) error
	// Address is where others reach this node.
	Address() string
	// Close ends all connections and waits for what it has started.
	Close() error
}

// Local is what a Network needs of its node.
type Local interface {
	// Identity is who the node is now.
	Identity() *clusterv1.Identity
	// Admit judges a Raft connection of another node to a server id.
	Admit(from *clusterv1.Identity, to string) error
	// AddressOf answers where a server is, as far as is known.
	AddressOf(id raft.ServerID) string
	// Lost tells that a Raft connection that the server had opened has ended.
	Lost(id raft.ServerID)
	// Register adds the services of the peer API.
	Register(r grpc.ServiceRegistrar)
}

// lone is the network of a group of one: nobody is reached, nobody calls.
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

// consumer is a transport whose incoming calls can be added to: a call that
// asks this node to begin an election comes from the node itself.
type consumer struct {
	raft.Transport
	// may judges each call before it leaves.
	may   func(to raft.ServerID) error
	calls chan raft.RPC
	stop  chan struct{}
	done  chan struct{}
	once  sync.Once
}

func newConsumer(t raft.Transport, may func(raft.ServerID) error) *consumer {
	c := &consumer{Transport: t, may: may, calls: make(chan raft.RPC), stop: make(chan struct{}), done: make(chan struct{})}
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
			select {
			case c.calls <- rpc:
			case <-c.stop:
				return
			}
		}
	}
}

// Consumer delivers incoming calls.
func (c *consumer) Consumer() <-chan raft.RPC { return c.calls }

// elect asks this node to begin an election now. It blocks until Raft took
// the call up, or ctx ends.
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
}

// AppendEntries sends entries or a heartbeat.
func (c *consumer) AppendEntries(id raft.ServerID, target raft.ServerAddress, req *raft.AppendEntriesRequest, res *raft.AppendEntriesResponse) error {
	if err := c.may(id); err != nil {
		return err
	}
	return c.Transport.AppendEntries(id, target, req, res)
}

// AppendEntriesPipeline opens a stream of entries.
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

// AppendEntries sends entries without waiting for the answer. It closes the
// pipeline if that takes no more for raftTimeout: once Raft has heard of a newer
// term it reads no answer any more, and its sender would wait here for ever, and
// Shutdown for the sender (hashicorp/raft 1.8, netPipeline.AppendEntries).
func (p pipeline) AppendEntries(req *raft.AppendEntriesRequest, res *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if err := p.c.may(p.id); err != nil {
		return nil, err
	}
	stuck := time.AfterFunc(raftTimeout, func() { _ = p.Close() })
	defer stuck.Stop()
	return p.AppendPipeline.AppendEntries(req, res)
}

// RequestVote asks for a vote.
func (c *consumer) RequestVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestVoteRequest, res *raft.RequestVoteResponse) error {
	if err := c.may(id); err != nil {
		return err
	}
	return c.Transport.RequestVote(id, target, req, res)
}

// RequestPreVote passes on, where the transport below can: embedding hides it.
func (c *consumer) RequestPreVote(id raft.ServerID, target raft.ServerAddress, req *raft.RequestPreVoteRequest, res *raft.RequestPreVoteResponse) error {
	if err := c.may(id); err != nil {
		return err
	}
	if t, ok := c.Transport.(raft.WithPreVote); ok {
		return t.RequestPreVote(id, target, req, res)
	}
	return raft.ErrTransportShutdown
}

// Close closes the transport below.
func (c *consumer) Close() error {
	if t, ok := c.Transport.(raft.WithClose); ok {
		return t.Close()
	}
	return nil
}

// raftTimeout bounds one call of Raft's, with its dial.
const raftTimeout = 10 * time.Second

// Nowhere is a network that reaches nobody, for work on a stopped node's data.
// The address is what is written as the node's own.
func Nowhere(address string) Network { return newLone(address) }
