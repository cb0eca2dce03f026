package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/hashes"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// unclearAfter is how many times in a row a leader must find that states differ without a majority
// before it reports that: the hashes of members that the leader pings later may show a majority.
const unclearAfter = 4

// watchHashes compares the states of the members until ctx ends. If the state of this node is
// wrong, it gives leadership to a voter whose state is right.
func (n *Node) watchHashes(ctx context.Context, term *Term) error {
	if n.alone() {
		return nil
	}
	t := time.NewTicker(n.cfg.PingInterval)
	defer t.Stop()
	unclear := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		v := hashes.Judge(n.hashReports())
		if unclear++; len(v.Unclear) == 0 {
			unclear = 0
		} else if unclear < unclearAfter {
			v.Unclear = nil
		}
		n.logVerdict(n.verdict(), v)
		term.hashes.Store(&v)
		if right := v.Wrong[n.serverID()]; right != nil {
			n.noteDivergence(&clusterv1.Divergence{Checkpoint: right})
		}
		if err := n.Diverged(); err != nil {
			n.handOver(ctx, err)
		}
	}
}

// hashReports returns the number of voters, and what the members that respond report about their
// states.
func (n *Node) hashReports() (voters int, reports []hashes.Report) {
	for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
		r := hashes.Report{ID: s.ID, Voter: s.Suffrage == raft.Voter}
		if r.Voter {
			voters++
		}
		switch p, alive := n.peers.alive(s.ID); {
		case s.ID == n.serverID():
			r.Checkpoints = n.checkpoints()
		case alive:
			r.Checkpoints = p.ping.GetCheckpoints()
		}
		reports = append(reports, r)
	}
	return voters, reports
}

func (n *Node) logVerdict(was, now hashes.Verdict) {
	for id, right := range now.Wrong {
		if was.Wrong[id] == nil {
			n.divergences.found.Add(1)
			n.cfg.Logger.Error("the replicated state of a member differs from that of the majority", "node", n.cfg.Name, "member", id,
				"index", right.GetIndex(), "version", right.GetVersion(), "majority", hashText(right))
		}
	}
	if len(now.Unclear) > 0 && len(was.Unclear) == 0 {
		n.divergences.found.Add(uint64(len(now.Unclear)))
		n.cfg.Logger.Error("the replicated states of members differ, and no majority shows which one is right", "node", n.cfg.Name, "members", now.Unclear)
	}
}
