package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/faults"
)

// diskProblem returns why the log of this node cannot be written now, or nil. A node with such a
// problem accepts no commands and does not stand for election.
func (n *Node) diskProblem() error {
	if n.logs == nil || faults.Mutant("disk-problems-ignored") {
		return nil
	}
	return n.logs.Unwritable()
}

// DiskProblem returns why the replicated log of this node cannot be written now, or nil.
func (n *Node) DiskProblem() error { return n.diskProblem() }

// DiskFree returns how many bytes the disk of the replicated log has left, and how many it needs so
// that the node accepts commands. ok is false if that is unknown.
func (n *Node) DiskFree() (free, need uint64, ok bool) {
	if n.logs == nil {
		return 0, 0, false
	}
	return n.logs.Room()
}

// handOver gives leadership to a voter whose disk works and whose state is right, if there is one.
// Otherwise this node keeps leading: it refuses commands, and still serves reads.
func (n *Node) handOver(ctx context.Context, reason error) {
	for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
		if s.Suffrage != raft.Voter || s.ID == n.serverID() || !n.writesLog(s.ID) || n.divergenceOf(s.ID) != nil {
			continue
		}
		n.cfg.Logger.Warn("gives up leadership", "node", n.cfg.Name, "reason", reason, "to", nameOf(s.ID))
		ctx, cancel := context.WithTimeout(ctx, n.cfg.Election)
		defer cancel()
		// The end of the term cancels ctx before the call returns: that is success.
		if err := n.TransferLeadership(ctx, nameOf(s.ID)); err != nil && n.Leads() {
			n.cfg.Logger.Warn("cannot give up leadership", "node", n.cfg.Name, "err", err)
			continue
		}
		return
	}
}

// handOverDisk is handOver because of this node's disk. It does nothing unless a majority of the
// voters can write: with fewer, no leader can commit its first command, so that reads would end, too.
// The last pings may be older than the problem, which often comes to all nodes at once. So the voters
// are asked again before.
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

// writesLog reports whether the last ping of another member, which must be recent, says that its log
// can be written. Versions up to 0.3.0 report only whether the node takes builds.
func (n *Node) writesLog(id raft.ServerID) bool {
	p := n.peers.get(id)
	if p.ping == nil || p.dead || time.Since(p.pingAt) > 4*n.cfg.PingInterval {
		return false
	}
	if p.ping.LogWritable != nil {
		return p.ping.GetLogWritable()
	}
	return !p.ping.GetRefusesBuilds()
}

// pingVoters pings all other voters at once and waits for the responses, for Config.Election at most.
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

// mayStand returns an error if a request for a vote must not leave this node.
func (c *consumer) mayStand(to raft.ServerID) error {
	if c.stand != nil {
		if err := c.stand(); err != nil {
			return err
		}
	}
	return c.may(to)
}

// declines responds to the request of a leader to take over, if this node must not stand for
// election. An election that it cannot win would only end the term of that leader.
func (c *consumer) declines(rpc raft.RPC) bool {
	if _, ok := rpc.Command.(*raft.TimeoutNowRequest); !ok || c.stand == nil {
		return false
	}
	err := c.stand()
	if err != nil {
		rpc.Respond(nil, err)
	}
	return err != nil
}

// refusalsPerBackoff is after how many refused entries a leader begins its delays again. The leader
// doubles its delay from 10 ms on at each of them, up to 10 s. With 8 it waits 0.64 s at most.
const refusalsPerBackoff = 8

// retriedSoon returns an incoming call whose response makes the leader begin its delays again, if
// the call has entries and this node refuses entries for now. The leader would otherwise send none
// for up to 10 s after this node can store them.
func (c *consumer) retriedSoon(rpc raft.RPC) raft.RPC {
	req, ok := rpc.Command.(*raft.AppendEntriesRequest)
	if !ok || len(req.Entries) == 0 || c.stand == nil || faults.Mutant("refusals-delay-the-leader") {
		return rpc
	}
	if c.stand() == nil {
		c.refused = 0
		return rpc
	}
	if c.refused++; c.refused%refusalsPerBackoff != 0 {
		return rpc
	}
	to, from := rpc.RespChan, make(chan raft.RPCResponse, 1)
	rpc.RespChan = from
	c.replies.Go(func() {
		select {
		case res := <-from:
			if a, ok := res.Response.(*raft.AppendEntriesResponse); ok && !a.Success {
				a.NoRetryBackoff = true
			}
			select {
			case to <- res:
			case <-c.stop:
			}
		case <-c.stop:
		}
	})
	return rpc
}
