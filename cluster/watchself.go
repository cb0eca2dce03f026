package cluster

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

func isRefused(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}

// watchInterval is how often the leader checks its own disk and clock.
const watchInterval = 100 * time.Millisecond

// watchSelf gives up leadership while this node should not lead: its clock is wrong, or its disk is
// slow or cannot be written. While a write of the log is stuck, Raft cannot transfer leadership.
// Then the node sends nothing, so that another node starts an election.
func (n *Node) watchSelf(ctx context.Context, term *Term) error {
	if n.alone() {
		return nil
	}
	t := time.NewTicker(watchInterval)
	defer t.Stop()
	var s silence
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if n.logs != nil {
			stuck := n.logs.Stuck()
			quiet := s.next(time.Now(), stuck > n.cfg.SlowDisk, 2*(n.cfg.Heartbeat+n.cfg.Election))
			switch was := term.quiet.Swap(quiet); {
			case quiet && !was:
				n.cfg.Logger.Error("a write of the log takes too long: this node sends nothing, so that another node can lead", "node", n.cfg.Name, "for", stuck)
			case was && !quiet:
				n.cfg.Logger.Info("the disk writes again and no other node has begun to lead: this node sends again", "node", n.cfg.Name)
			}
			if quiet {
				continue
			}
		}
		n.clock.adjust(n.judgeClocks())
		if err := n.diskProblem(); err != nil {
			n.handOverDisk(ctx, err)
		}
		if n.logs != nil && n.logs.Slow(n.cfg.SlowDisk) {
			n.giveUp(ctx, "its disk is slow")
		}
		if skew := n.skew(); skew.Abs() > n.cfg.MaxClockSkew {
			n.giveUp(ctx, skewed(skew))
		}
	}
}

// hearClocks waits for the clocks of a majority before the first command of a term. The time of the
// state never goes back: a first command of a clock that is ahead would end builds and remove
// history. hearClocks returns raft.ErrNotLeader if this node's clock is wrong, so that another node
// leads. While two clocks disagree, only the others can show which one is wrong, so it waits for
// all. It waits for Config.Election at most, since a member may not respond.
func (n *Node) hearClocks(ctx context.Context) error {
	if n.alone() {
		return nil
	}
	limit := time.NewTimer(n.cfg.Election)
	defer limit.Stop()
	for over := false; !over; {
		changed := n.PeersChanged()
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

func skewed(skew time.Duration) string {
	return fmt.Sprintf("its clock is %s off the median of all nodes", -skew.Round(time.Second))
}

func (n *Node) giveUp(ctx context.Context, reason string) {
	n.cfg.Logger.Warn("gives up leadership", "node", n.cfg.Name, "reason", reason)
	ctx, cancel := context.WithTimeout(ctx, n.cfg.Election)
	defer cancel()
	// The end of the term cancels ctx before the call returns: that is success.
	if err := n.TransferLeadership(ctx, ""); err != nil && n.Leads() {
		n.cfg.Logger.Warn("cannot give up leadership", "node", n.cfg.Name, "err", err)
	}
}

// skew returns how far the median of all clocks is ahead of this one.
func (n *Node) skew() time.Duration {
	n.peers.mu.Lock()
	defer n.peers.mu.Unlock()
	all := []time.Duration{0}
	for _, s := range n.peers.byID {
		if s.ping != nil && time.Since(s.pingAt) < 4*n.cfg.PingInterval {
			all = append(all, s.offset)
		}
	}
	if len(all) < 3 { // with two clocks it is unknown which one is wrong
		return 0
	}
	return median(all)
}

// TransferLeadership makes another voter the leader: the node with the name to, or the most
// up-to-date one if to is empty. On a node that does not lead it returns ErrNoLeader.
func (n *Node) TransferLeadership(ctx context.Context, to string) error {
	r := n.raft.Load()
	if r.State() != raft.Leader {
		return ErrNoLeader
	}
	if to == "" {
		return n.await(ctx, func() raft.Future { return r.LeadershipTransfer() })
	}
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if nameOf(s.ID) != to {
			continue
		}
		if s.Suffrage != raft.Voter {
			return fmt.Errorf("node %q does not vote and cannot lead", to)
		}
		return n.await(ctx, func() raft.Future { return r.LeadershipTransferToServer(s.ID, s.Address) })
	}
	return fmt.Errorf("no member is named %q", to)
}

// Remove removes a member from the cluster, by node name or server id. On a node that does not lead
// it returns ErrNoLeader.
func (n *Node) Remove(ctx context.Context, member string) error {
	r := n.raft.Load()
	if !n.leading() {
		return ErrNoLeader
	}
	for _, s := range r.GetConfiguration().Configuration().Servers {
		if string(s.ID) != member && nameOf(s.ID) != member {
			continue
		}
		if s.ID == n.serverID() {
			return fmt.Errorf("node %q leads: transfer leadership first", member)
		}
		return n.changeMembers(ctx, func(r *raft.Raft, _ []raft.Server) (raft.Future, error) { return r.RemoveServer(s.ID, 0, 0), nil })
	}
	return fmt.Errorf("no member is named %q", member)
}
