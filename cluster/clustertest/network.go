package clustertest

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/cluster/transport"
)

// Network connects one node to a Hub. A node that starts again needs a new Network.
type Network struct {
	// Missing are the methods that the node does not serve, as /SERVICE/METHOD. An older version
	// lacks them. Set it before Open.
	Missing []string

	hub     *Hub
	name    string
	address string
	local   transport.Local
	calls   chan raft.RPC

	admitted sync.Map // *Network: the nodes that this one has checked
	services map[string]service
	ctx      context.Context
	stop     context.CancelFunc
}

var _ transport.Network = (*Network)(nil)

type service struct {
	impl    any
	methods map[string]grpc.MethodDesc
	streams map[string]grpc.StreamDesc
}

// NewNetwork returns the network of a node at an address. The node is not reachable before Open.
func (h *Hub) NewNetwork(name, address string) *Network {
	n := &Network{hub: h, name: name, address: address, calls: make(chan raft.RPC), services: map[string]service{}}
	n.ctx, n.stop = context.WithCancel(context.Background())
	return n
}

// Open makes the node reachable.
func (n *Network) Open(local transport.Local) error {
	n.local = local
	local.Register(n)
	n.hub.mu.Lock()
	defer n.hub.mu.Unlock()
	n.hub.byAddr[n.address] = n
	return nil
}

// RegisterService adds a service of the peer API.
func (n *Network) RegisterService(d *grpc.ServiceDesc, impl any) {
	s := service{impl, map[string]grpc.MethodDesc{}, map[string]grpc.StreamDesc{}}
	for _, m := range d.Methods {
		s.methods[m.MethodName] = m
	}
	for _, m := range d.Streams {
		s.streams[m.StreamName] = m
	}
	n.services[d.ServiceName] = s
}

// Crash makes the node unreachable at once: no message that it sends from now on arrives. Its peers
// notice that, as they would notice the closed sockets of a killed process.
func (n *Network) Crash() {
	n.hub.mu.Lock()
	id := raft.ServerID(n.local.Identity().GetServerId())
	if n.hub.byAddr[n.address] == n {
		delete(n.hub.byAddr, n.address)
	}
	var others []*Network
	for _, o := range n.hub.byAddr {
		if !n.hub.cut[[2]string{n.name, o.name}] && n.hub.paused[o.name] == nil && n.hub.paused[n.name] == nil {
			others = append(others, o)
		}
	}
	n.hub.mu.Unlock()
	n.stop()
	for _, o := range others {
		o.local.Lost(id)
	}
}

// Elect makes the node start an election now, like the message of a leader that gives up
// leadership.
func (n *Network) Elect() {
	response := make(chan raft.RPCResponse, 1)
	select {
	case n.calls <- raft.RPC{Command: &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}, RespChan: response}:
	case <-n.ctx.Done():
	}
}

// Close makes the node unreachable.
func (n *Network) Close() error {
	if n.local != nil {
		n.Crash()
	}
	n.stop()
	return nil
}

// Raft returns the transport of Raft.
func (n *Network) Raft() raft.Transport { return (*raftTransport)(n) }

// Address returns the address at which others reach this node.
func (n *Network) Address() string { return n.address }

// find returns the node at address; nil if there is none, if it refuses this node, or if this node
// has crashed. The caller checks that the server id of the node is the one that it expects.
func (n *Network) find(address string) *Network {
	n.hub.mu.Lock()
	defer n.hub.mu.Unlock()
	if n.ctx.Err() != nil {
		return nil
	}
	to := n.hub.byAddr[address]
	if to != nil && n.hub.refuse[[2]string{n.name, to.name}] {
		return nil
	}
	return to
}

// Probe returns an error unless the address accepts connections.
func (n *Network) Probe(ctx context.Context, address string) error {
	to := n.find(address)
	if to == nil {
		return refused{}
	}
	return n.hub.pass(ctx, n.name, to.name)
}

// Conn returns a connection to the peer API.
func (n *Network) Conn(id raft.ServerID, address string) (grpc.ClientConnInterface, error) {
	return conn{n, id, address}, nil
}

type conn struct {
	from    *Network
	id      raft.ServerID
	address string
}

// peer returns the node at the other end, or an Unavailable error.
func (c conn) peer() (*Network, error) {
	to := c.from.find(c.address)
	if to == nil {
		return nil, status.Error(codes.Unavailable, errRefused.Error())
	}
	if c.id != "" && to.local.Identity().GetServerId() != string(c.id) {
		return nil, status.Error(codes.Unavailable, "another server is at that address")
	}
	return to, nil
}

// stream returns the handler of a method that streams its responses.
func (n *Network) stream(method string) (func(grpc.ServerStream) error, error) {
	name, m, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	s := n.services[name]
	desc, ok := s.streams[m]
	if !ok || slices.Contains(n.Missing, method) {
		return nil, status.Errorf(codes.Unimplemented, "no method %s", method)
	}
	return func(stream grpc.ServerStream) error { return desc.Handler(s.impl, stream) }, nil
}

// Invoke makes one call. It copies the messages, so that caller and callee share no memory.
func (c conn) Invoke(ctx context.Context, method string, req, res any, _ ...grpc.CallOption) error {
	to, err := c.peer()
	if err != nil {
		return err
	}
	if err := c.from.hub.pass(ctx, c.from.name, to.name); err != nil {
		return unavailable(ctx, err)
	}
	raw, err := proto.Marshal(req.(proto.Message))
	if err != nil {
		return err
	}
	name, m, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	s := to.services[name]
	desc, ok := s.methods[m]
	if !ok || slices.Contains(to.Missing, method) {
		return status.Errorf(codes.Unimplemented, "no method %s", method)
	}
	type response struct {
		res any
		err error
	}
	done := make(chan response, 1)
	callee, cancel := context.WithCancel(ctx)
	defer cancel()
	if md, ok := metadata.FromOutgoingContext(ctx); ok {
		callee = metadata.NewIncomingContext(callee, md)
	}
	callee = metadata.NewOutgoingContext(callee, nil)
	go func() {
		out, err := desc.Handler(s.impl, callee, func(in any) error { return proto.Unmarshal(raw, in.(proto.Message)) }, nil)
		done <- response{out, err}
	}()
	select {
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	case <-to.ctx.Done():
		return status.Error(codes.Unavailable, "the node went away during the call")
	case <-c.from.ctx.Done():
		return status.Error(codes.Unavailable, "this node went away during the call")
	case r := <-done:
		if err := c.from.hub.pass(ctx, to.name, c.from.name); err != nil {
			return unavailable(ctx, err)
		}
		if r.err != nil {
			return status.Convert(r.err).Err()
		}
		raw, err := proto.Marshal(r.res.(proto.Message))
		if err != nil {
			return err
		}
		return proto.Unmarshal(raw, res.(proto.Message))
	}
}

func unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return status.FromContextError(ctx.Err()).Err()
	}
	return status.Error(codes.Unavailable, err.Error())
}

// raftTransport is the transport of Raft.
type raftTransport Network

var (
	_ raft.Transport   = (*raftTransport)(nil)
	_ raft.WithPreVote = (*raftTransport)(nil)
)

func (t *raftTransport) Consumer() <-chan raft.RPC                               { return t.calls }
func (t *raftTransport) LocalAddr() raft.ServerAddress                           { return raft.ServerAddress(t.address) }
func (t *raftTransport) SetHeartbeatHandler(func(raft.RPC))                      {}
func (t *raftTransport) EncodePeer(_ raft.ServerID, a raft.ServerAddress) []byte { return []byte(a) }

func (t *raftTransport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

func (t *raftTransport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// call sends one message of Raft and waits for the response.
func (t *raftTransport) call(id raft.ServerID, command any, data io.Reader, timeout time.Duration) (any, error) {
	n := (*Network)(t)
	ctx, cancel := context.WithTimeout(n.ctx, timeout)
	defer cancel()
	to := n.find(n.local.AddressOf(id))
	if to == nil {
		return nil, errRefused
	}
	admitHere, admitThere := n.local.Admission(), to.local.Admission() // as at the start of a connection
	from := n.local.Identity()
	if err := n.hub.pass(ctx, n.name, to.name); err != nil {
		return nil, err
	}
	if err := admitThere(from, string(id)); err != nil {
		return nil, err
	}
	if _, connected := n.admitted.Load(to); !connected {
		if err := admitHere(to.local.Identity(), n.local.Identity().GetServerId()); err != nil {
			return nil, err
		}
		n.admitted.Store(to, true)
	}
	response := make(chan raft.RPCResponse, 1)
	select {
	case to.calls <- raft.RPC{Command: command, Reader: data, RespChan: response}:
	case <-to.ctx.Done():
		return nil, errRefused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case r := <-response:
		if err := n.hub.pass(ctx, to.name, n.name); err != nil {
			return nil, err
		}
		return r.Response, r.Error
	case <-to.ctx.Done():
		return nil, errRefused
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

const rpcTimeout = 2 * time.Second

func send[T any](t *raftTransport, id raft.ServerID, command any, out *T, data io.Reader) error {
	res, err := t.call(id, command, data, rpcTimeout)
	if err != nil {
		return err
	}
	*out = *res.(*T)
	return nil
}

func (t *raftTransport) AppendEntries(id raft.ServerID, _ raft.ServerAddress, req *raft.AppendEntriesRequest, res *raft.AppendEntriesResponse) error {
	return send(t, id, req, res, nil)
}

func (t *raftTransport) RequestVote(id raft.ServerID, _ raft.ServerAddress, req *raft.RequestVoteRequest, res *raft.RequestVoteResponse) error {
	return send(t, id, req, res, nil)
}

func (t *raftTransport) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, req *raft.RequestPreVoteRequest, res *raft.RequestPreVoteResponse) error {
	return send(t, id, req, res, nil)
}

func (t *raftTransport) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, req *raft.TimeoutNowRequest, res *raft.TimeoutNowResponse) error {
	return send(t, id, req, res, nil)
}

func (t *raftTransport) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, req *raft.InstallSnapshotRequest, res *raft.InstallSnapshotResponse, data io.Reader) error {
	return send(t, id, req, res, data)
}
