package cluster

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Hasher is a StateMachine that hashes its state at fixed points of the log. The leader compares
// the hashes of the members.
type Hasher interface {
	// Checkpoints returns the hashes of the state at the last checkpoints since Restore, by
	// ascending index. The caller must not change them. It may be called at any time.
	Checkpoints() []*clusterv1.Checkpoint
}

// unclearAfter is how many times in a row a leader must find that states differ without a majority
// before it reports that: the hashes of members that the leader pings later may show a majority.
const unclearAfter = 4

// Divergence describes the members whose replicated states differ, as the leader sees them.
type Divergence struct {
	// Wrong are the names of the members whose state differs from that of a majority of the voters.
	// They replace it.
	Wrong []string
	// Unclear are the names of members whose states differ while no majority agrees.
	Unclear []string
	// Compared is the index of the newest checkpoint at which the states of two members or more
	// were compared; 0 if there was none in this term.
	Compared uint64
}

// String returns a description for a person; "" if the states do not differ.
func (d Divergence) String() string {
	var out []string
	if len(d.Wrong) > 0 {
		out = append(out, fmt.Sprintf("the replicated state of %s differs from that of the majority", strings.Join(d.Wrong, ", ")))
	}
	if len(d.Unclear) > 0 {
		out = append(out, fmt.Sprintf("the replicated states of %s differ, and no majority shows which one is right", strings.Join(d.Unclear, ", ")))
	}
	return strings.Join(out, "; ")
}

// Divergence returns what this node, as the leader, knows about members whose states differ. On a
// node that does not lead it is empty.
func (n *Node) Divergence() (d Divergence) {
	v := n.verdict()
	d.Compared = v.compared
	for _, id := range slices.Sorted(maps.Keys(v.wrong)) {
		d.Wrong = append(d.Wrong, nameOf(id))
	}
	for _, id := range v.unclear {
		d.Unclear = append(d.Unclear, nameOf(id))
	}
	return d
}

// DivergencesFound returns how many members this process has found, as the leader, whose states
// differ.
func (n *Node) DivergencesFound() uint64 { return n.hashes.found.Load() }

func (n *Node) verdict() hashVerdict {
	if term := n.current.Load(); term != nil {
		if v := term.hashes.Load(); v != nil {
			return *v
		}
	}
	return hashVerdict{}
}

func (n *Node) checkpoints() []*clusterv1.Checkpoint {
	if h, ok := n.cfg.StateMachine.(Hasher); ok {
		return h.Checkpoints()
	}
	return nil
}

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
		v := judgeHashes(n.hashReports())
		if unclear++; len(v.unclear) == 0 {
			unclear = 0
		} else if unclear < unclearAfter {
			v.unclear = nil
		}
		n.logVerdict(n.verdict(), v)
		term.hashes.Store(&v)
		if right := v.wrong[n.serverID()]; right != nil {
			n.noteDivergence(&clusterv1.Divergence{Checkpoint: right})
		}
		if err := n.Diverged(); err != nil {
			n.handOver(ctx, err)
		}
	}
}

// hashReports returns the number of voters, and what the members that respond report about their
// states.
func (n *Node) hashReports() (voters int, reports []hashReport) {
	for _, s := range n.raft.Load().GetConfiguration().Configuration().Servers {
		r := hashReport{id: s.ID, voter: s.Suffrage == raft.Voter}
		if r.voter {
			voters++
		}
		switch p := n.peers.get(s.ID); {
		case s.ID == n.serverID():
			r.checkpoints = n.checkpoints()
		case p.ping != nil && !p.dead && time.Since(p.pingAt) < 4*n.cfg.PingInterval:
			r.checkpoints = p.ping.GetCheckpoints()
		}
		reports = append(reports, r)
	}
	return voters, reports
}

func (n *Node) logVerdict(was, now hashVerdict) {
	for id, right := range now.wrong {
		if was.wrong[id] == nil {
			n.hashes.found.Add(1)
			n.cfg.Logger.Error("the replicated state of a member differs from that of the majority", "node", n.cfg.Name, "member", id,
				"index", right.GetIndex(), "version", right.GetVersion(), "majority", hashText(right))
		}
	}
	if len(now.unclear) > 0 && len(was.unclear) == 0 {
		n.hashes.found.Add(uint64(len(now.unclear)))
		n.cfg.Logger.Error("the replicated states of members differ, and no majority shows which one is right", "node", n.cfg.Name, "members", now.unclear)
	}
}

func hashText(c *clusterv1.Checkpoint) string { return fmt.Sprintf("%016x", c.GetHash()) }

// divergenceOf returns what a ping of this leader reports to a member about its state; nil if the
// state is right.
func (n *Node) divergenceOf(id raft.ServerID) *clusterv1.Divergence {
	if right := n.verdict().wrong[id]; right != nil {
		return &clusterv1.Divergence{Checkpoint: right}
	}
	return nil
}
