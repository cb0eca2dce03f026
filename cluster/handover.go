package cluster

import (
	"context"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/serverid"
	"github.com/image-builder-ha/image-builder/faults"
)

func (n *Node) giveUp(ctx context.Context, reason string) {
	n.cfg.Logger.Warn("gives up leadership", "node", n.cfg.Name, "reason", reason)
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Election)
	defer cancel()
	// The end of the term cancels ctx before the call returns: that is success.
	if err := n.TransferLeadership(ctx, ""); err != nil && n.Leads() {
		n.cfg.Logger.Warn("cannot give up leadership", "node", n.cfg.Name, "err", err)
	}
}

// TransferLeadership makes another voter the leader: the node with the name to, or the most
// up-to-date one if to is empty. On a node that does not lead it returns ErrNoLeader.
func (n *Node) TransferLeadership(ctx context.Context, to string) error {
	r := n.raft.Load()
	if r.State() != raft.Leader {
		return ErrNoLeader
	}
	if to == "" {
		return n.raftCalls.await(ctx, func() raft.Future { return r.LeadershipTransfer() })
	}
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if serverid.Name(s.ID) != to {
			continue
		}
		if s.Suffrage != raft.Voter {
			return fmt.Errorf("node %q does not vote and cannot lead", to)
		}
		return n.raftCalls.await(ctx, func() raft.Future { return r.LeadershipTransferToServer(s.ID, s.Address) })
	}
	return fmt.Errorf("no member is named %q", to)
}

// handOver gives leadership to a voter whose disk works and whose state is right, if there is one.
// Otherwise this node keeps leading: it refuses commands, and still serves reads.
func (n *Node) handOver(ctx context.Context, reason error) {
	for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
		if s.Suffrage != raft.Voter || s.ID == n.serverID() || !n.writesLog(s.ID) || n.divergenceOf(s.ID) != nil {
			continue
		}
		n.cfg.Logger.Warn("gives up leadership", "node", n.cfg.Name, "reason", reason, "to", serverid.Name(s.ID))
		ctx, cancel := context.WithTimeout(ctx, n.cfg.Election)
		defer cancel()
		// The end of the term cancels ctx before the call returns: that is success.
		if err := n.TransferLeadership(ctx, serverid.Name(s.ID)); err != nil && n.Leads() {
			n.cfg.Logger.Warn("cannot give up leadership", "node", n.cfg.Name, "err", err)
			continue
		}
		return
	}
}

// handOverDisk is handOver because of this node's disk. It does nothing unless a majority of the
// voters can write: with fewer, no leader can commit its first command, so that reads would end,
// too. The last pings may be older than the problem, which often comes to all nodes at once. So the
// leader first pings the voters again.
func (n *Node) handOverDisk(ctx context.Context, reason error) {
	if !faults.Mutant("hands-over-without-a-majority") {
		if !n.majorityWrites() {
			return
		}
		n.pingVoters(ctx)
		if !n.majorityWrites() || ctx.Err() != nil {
			return
		}
	}
	n.handOver(ctx, reason)
}

// majorityWrites reports whether a majority of the voters has a log that can be written, as far as
// this leader knows.
func (n *Node) majorityWrites() bool {
	voters, write := 0, 0
	for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if s.ID == n.serverID() && n.diskProblem() == nil || s.ID != n.serverID() && n.writesLog(s.ID) {
			write++
		}
	}
	return write > voters/2
}

// writesLog reports whether the last ping of another member, which must be recent, says that its
// log can be written. Versions up to 0.3.0 report only whether the node takes builds.
func (n *Node) writesLog(id raft.ServerID) bool {
	p, alive := n.peers.alive(id)
	if !alive {
		return false
	}
	if p.ping.LogWritable != nil {
		return p.ping.GetLogWritable()
	}
	return !p.ping.GetRefusesBuilds()
}

// pingVoters pings all other voters at once and waits for the responses, for Config.Election at
// most.
func (n *Node) pingVoters(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Election)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter && s.ID != n.serverID() {
			wg.Go(func() { n.alive(ctx, s.ID) })
		}
	}
}
