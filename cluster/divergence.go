package cluster

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/hashes"
	"github.com/image-builder-ha/image-builder/cluster/serverid"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

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
	d.Compared = v.Compared
	for _, id := range slices.Sorted(maps.Keys(v.Wrong)) {
		d.Wrong = append(d.Wrong, serverid.Name(id))
	}
	for _, id := range v.Unclear {
		d.Unclear = append(d.Unclear, serverid.Name(id))
	}
	return d
}

// DivergencesFound returns how many members this process has found, as the leader, whose states
// differ.
func (n *Node) DivergencesFound() uint64 { return n.divergences.found.Load() }

func (n *Node) verdict() hashes.Verdict {
	if term := n.current.Load(); term != nil {
		if v := term.hashes.Load(); v != nil {
			return *v
		}
	}
	return hashes.Verdict{}
}

// divergenceOf returns what a ping of this leader reports to a member about its state; nil if the
// state is right.
func (n *Node) divergenceOf(id raft.ServerID) *clusterv1.Divergence {
	if right := n.verdict().Wrong[id]; right != nil {
		return &clusterv1.Divergence{Checkpoint: right}
	}
	return nil
}
