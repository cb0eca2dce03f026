package transport

import (
	"context"
	"errors"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
)

var errAlone = errors.New("this node is a group of one: it has no peers")

// Lone is the network of a group of one. It reaches no other node.
type Lone struct {
	trans   raft.Transport
	address string
}

// Nowhere returns a network that reaches no node, for a group of one and for work on the data of a
// stopped node. address is recorded as the node's own.
func Nowhere(address string) *Lone {
	_, t := raft.NewInmemTransport(raft.ServerAddress(address))
	return &Lone{t, address}
}

// Open does nothing: the network serves nobody.
func (l *Lone) Open(Local) error { return nil }

// Raft returns a transport without peers.
func (l *Lone) Raft() raft.Transport { return l.trans }

// Address returns the address that Nowhere was given.
func (l *Lone) Address() string { return l.address }

// Close does nothing.
func (l *Lone) Close() error { return nil }

// Conn returns an error: there is no other node.
func (l *Lone) Conn(raft.ServerID, string) (grpc.ClientConnInterface, error) {
	return nil, errAlone
}

// Probe returns an error: there is no other node.
func (l *Lone) Probe(context.Context, string) error { return errAlone }
