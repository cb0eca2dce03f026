package cluster

import (
	"context"
	"errors"
	"syscall"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/image-builder-ha/image-builder/cluster/serverid"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Conn returns a connection to the peer API of the member with that name and store id. It does not
// wait for the connection.
func (n *Node) Conn(name, storeID string) (grpc.ClientConnInterface, error) {
	id := serverid.New(name, storeID)
	if err := n.mayCall(id); err != nil {
		return nil, err
	}
	return n.cfg.Network.Conn(id, n.addressOf(id))
}

// LeaderConn returns a connection to the peer API of the leader. It returns ErrNoLeader if no
// leader is known or if this node leads.
func (n *Node) LeaderConn() (grpc.ClientConnInterface, error) {
	r := n.raft.Load()
	if r == nil {
		return nil, ErrNoLeader
	}
	_, id := r.LeaderWithID()
	if id == "" || id == n.serverID() {
		return nil, ErrNoLeader
	}
	return n.cfg.Network.Conn(id, n.addressOf(id))
}

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

// forwarded marks the context of a call that is made on behalf of another caller. The receiver does
// not forward it again.
func forwarded(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, headerForwarded, "1")
}

const headerForwarded = "ib-forwarded"

func (n *Node) addressOf(id raft.ServerID) string {
	if a := n.book.get(id); a != "" {
		return a
	}
	if r := n.raft.Load(); r != nil {
		for _, s := range r.GetConfiguration().Configuration().Servers {
			if s.ID == id {
				return string(s.Address)
			}
		}
	}
	return ""
}

func isRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}

// connectionLost makes lossLoop look at a server whose connection has ended.
func (n *Node) connectionLost(id raft.ServerID) {
	select {
	case n.lost <- id:
	default: // the queue is full: lossLoop has enough work
	}
}
