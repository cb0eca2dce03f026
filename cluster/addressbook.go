package cluster

import (
	"sync"

	"github.com/hashicorp/raft"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// addressBook holds the addresses that servers have reported. It can be newer than Raft's
// configuration, which cannot change without a leader.
type addressBook struct {
	mu         sync.Mutex
	peerAddr   map[raft.ServerID]string // of the peer ports
	gossipAddr map[raft.ServerID]string // of gossip
}

func (b *addressBook) get(id raft.ServerID) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.peerAddr[id]
}

func (b *addressBook) note(id *clusterv1.Identity) {
	if id.GetServerId() == "" || id.GetAddress() == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.peerAddr == nil {
		b.peerAddr, b.gossipAddr = map[raft.ServerID]string{}, map[raft.ServerID]string{}
	}
	b.peerAddr[raft.ServerID(id.GetServerId())] = id.GetAddress()
	if a := id.GetGossipAddress(); a != "" {
		b.gossipAddr[raft.ServerID(id.GetServerId())] = a
	}
}

// gossip returns the address of the gossip port of a server, or "".
func (b *addressBook) gossip(id raft.ServerID) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gossipAddr[id]
}
