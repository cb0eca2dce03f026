package cluster

import (
	"fmt"

	"github.com/hashicorp/raft"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// raiseFloors records what a member and this leader have acknowledged, and the floors that the
// member knows. committed is the commit index of this node before the ping.
func (n *Node) raiseFloors(id raft.ServerID, ping *clusterv1.PingResponse, term, committed uint64) {
	n.floors.merge(ping.GetFloors())
	n.floors.raise(id, acknowledged(ping, term, committed))
	n.floors.raise(n.serverID(), committed) // a leader stores an entry before it sends it
}

func (n *Node) knownFloors() []*clusterv1.Floor {
	return n.floors.of(n.raft.Load().GetConfiguration().Configuration().Servers)
}

// checkFloor returns an error if a node has less than its server id has acknowledged. floor must be
// older than the identity: a server acknowledges further entries while its identity is in flight.
// Below Config.FloorLevel checkFloor returns nil.
func (n *Node) checkFloor(from *clusterv1.Identity, floor uint64) error {
	if n.cfg.CommittedLevel() < n.cfg.FloorLevel || from.LastIndex == nil {
		return nil
	}
	if from.GetLastIndex() < floor {
		return fmt.Errorf("the log of node %s ends at entry %d, but it has acknowledged entry %d: its data directory is an older copy. Stop the node, empty the directory and start the node: it joins as a new member", from.GetServerId(), from.GetLastIndex(), floor)
	}
	return nil
}
