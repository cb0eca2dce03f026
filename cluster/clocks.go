package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/clock"
)

// hearClocks waits for the clocks of a majority before the first command of a term. The time of the
// state never goes back: a first command of a clock that is ahead would end builds and remove
// history. hearClocks returns raft.ErrNotLeader if this node's clock is wrong, so that another node
// leads. While two clocks disagree, only the others can show which one is wrong, so it waits for
// all. It waits for Config.Election at most, because a member may not respond.
func (n *Node) hearClocks(ctx context.Context) error {
	if n.alone() {
		return nil
	}
	limit := time.NewTimer(n.cfg.Election)
	defer limit.Stop()
	for over := false; !over; {
		changed := n.peers.next()
		if n.clocksHeard() {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-limit.C:
			over = true
		}
	}
	if skew := n.skew(); skew.Abs() > n.cfg.MaxClockSkew {
		n.giveUp(ctx, skewed(skew))
	}
	if n.raft.Load().State() != raft.Leader {
		return raft.ErrNotLeader
	}
	return nil
}

// clocksHeard reports whether all voters have reported their clocks, or a majority has and these
// agree.
func (n *Node) clocksHeard() bool {
	voters, heard, agree := 0, 0, true
	for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if s.ID == n.serverID() {
			heard++
		} else if p := n.peers.get(s.ID); p.ping != nil {
			heard++
			agree = agree && p.offset.Abs() <= n.cfg.MaxClockSkew
		}
	}
	return heard == voters || agree && heard > voters/2
}

// judgeClocks returns the knowledge of this node, as the leader, about the present.
func (n *Node) judgeClocks() clock.View {
	responses, wall := n.peers.responses(), n.cfg.Now().UnixNano()
	var others []time.Duration
	for _, s := range responses {
		// This node's clock may have jumped since the ping.
		others = append(others, time.Duration(s.clock-wall)+time.Since(s.pingAt))
	}
	return clock.Judge(wall, others, n.cfg.MaxClockSkew)
}

// skew returns how far the median of all clocks is ahead of this one.
func (n *Node) skew() time.Duration {
	all := []time.Duration{0}
	for _, s := range n.peers.responses() {
		all = append(all, s.offset)
	}
	if len(all) < 3 { // with two clocks it is unknown which one is wrong
		return 0
	}
	return clock.Median(all)
}

// skewed returns why a node with such a skew gives up leadership.
func skewed(skew time.Duration) string {
	return fmt.Sprintf("its clock is %s off the median of all nodes", -skew.Round(time.Second))
}
