package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/faults"
)

// mendInterval is how often a node tries to open its log again after an error of its disk.
const mendInterval = 100 * time.Millisecond

// diskProblem returns why the log of this node cannot be written now, or nil. A node with such a
// problem accepts no commands and does not stand for election.
func (n *Node) diskProblem() error {
	if n.logs == nil || faults.Mutant("disk-problems-ignored") {
		return nil
	}
	return n.logs.unwritable()
}

// diskLoop opens the log again after errors of its disk, and reports the lack of room. A node that does not lead may otherwise
// never write again, since it does not stand for election before.
func (n *Node) diskLoop(ctx context.Context) {
	if n.logs == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.logs.failed:
		}
		err := n.logs.recover()
		if err == nil {
			continue
		}
		n.cfg.Logger.Error("the replicated log cannot be written: this node accepts no commands until its disk works and has room", "node", n.cfg.Name, "err", err)
		for ; err != nil; err = n.logs.recover() {
			t := time.NewTimer(mendInterval)
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
		}
		n.cfg.Logger.Info("the log can be written again", "node", n.cfg.Name)
	}
}

// handOver gives leadership to a voter whose disk works, if there is one. Otherwise this node keeps
// leading: it refuses commands, and still serves reads.
func (n *Node) handOver(ctx context.Context, reason error) {
	for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
		if s.Suffrage != raft.Voter || s.ID == n.serverID() {
			continue
		}
		p := n.peers.get(s.ID)
		if p.ping == nil || p.dead || time.Since(p.pingAt) > 4*n.cfg.PingInterval || p.ping.GetRefusesBuilds() {
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
