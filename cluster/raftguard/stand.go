package raftguard

import (
	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/faults"
)

// mayStand returns an error if a request for a vote must not leave this node.
func (c *Guard) mayStand(to raft.ServerID) error {
	if c.opts.MayStand != nil {
		if err := c.opts.MayStand(); err != nil {
			return err
		}
	}
	return c.opts.MaySend(to)
}

// declines responds to the request of a leader to take over, if this node must not stand for
// election. An election that it cannot win would only end the term of that leader.
func (c *Guard) declines(rpc raft.RPC) bool {
	if _, ok := rpc.Command.(*raft.TimeoutNowRequest); !ok || c.opts.MayStand == nil {
		return false
	}
	err := c.opts.MayStand()
	if err != nil {
		rpc.Respond(nil, err)
	}
	return err != nil
}

// refusalsPerBackoff is the number of refused entries after which a leader resets its delays. The
// leader doubles its delay from 10 ms on at each of them, up to 10 s. With 8 it waits 0.64 s at
// most.
const refusalsPerBackoff = 8

// retriedSoon returns an incoming call whose response makes the leader reset its delays, if the
// call has entries and this node refuses entries for now. The leader would otherwise send none for
// up to 10 s after this node can store them.
func (c *Guard) retriedSoon(rpc raft.RPC) raft.RPC {
	req, ok := rpc.Command.(*raft.AppendEntriesRequest)
	if !ok || len(req.Entries) == 0 || c.opts.MayStand == nil || faults.Mutant("refusals-delay-the-leader") {
		return rpc
	}
	if c.opts.MayStand() == nil {
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
