// Package transport connects a node to the others of its cluster: Raft and the peer API on one port
// with mutual TLS. It knows the identity of its node through Local, and does not decide who is a
// member.
package transport

import (
	"context"
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
	// Admission returns a function that returns an error if a Raft connection must be refused. from
	// is the node at the other end, to the server id that it expects here. Both ends call Admission
	// before the other end makes its identity: the function compares the last index in the identity
	// with the index that the server had acknowledged before the call of Admission.
	Admission() (admit func(from *clusterv1.Identity, to string) error)
	// AddressOf returns the last known address of a server, or "".
	AddressOf(id raft.ServerID) string
	// Lost reports that a connection of Raft to or from the server has ended.
	Lost(id raft.ServerID)
	// Register adds the services of the peer API.
	Register(r grpc.ServiceRegistrar)
}

// Protocols of the peer port. Callers select one by ALPN (RFC 7301).
const (
	protoRaft = "raft/1"
	protoGRPC = "h2"
)

// handshakeTimeout bounds the TLS handshake and the hello of a connection.
const handshakeTimeout = 5 * time.Second
