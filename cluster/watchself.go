package cluster

import (
	"context"
	"time"
)

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
			stuck := n.logs.Oldest()
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
		n.clock.Adjust(n.judgeClocks())
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
