package cluster

import (
	"cmp"
	"slices"

	"github.com/hashicorp/raft"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// hashReport is what one member reports about its state.
type hashReport struct {
	id          raft.ServerID
	voter       bool
	checkpoints []*clusterv1.Checkpoint
}

// hashVerdict names the members whose states differ.
type hashVerdict struct {
	// wrong holds the members whose state differs from that of a majority of the voters, with the
	// newest checkpoint of the majority for which this is so.
	wrong map[raft.ServerID]*clusterv1.Checkpoint
	// unclear holds the members, sorted, of which the state of at least one is wrong, while no
	// majority of the voters agrees.
	unclear []raft.ServerID
	// compared is the index of the newest checkpoint that at least two members have; 0 if there is
	// none.
	compared uint64
}

// judgeHashes compares the states of members. Only checkpoints of the same version and index are
// compared. A state is wrong if it differs at two consecutive checkpoints at which a majority of
// the voters, of which there are the given number, agree. So less than a half of the voters is ever
// wrong. Members that do not report a checkpoint agree with nobody.
func judgeHashes(voters int, reports []hashReport) hashVerdict {
	compared := compareHashes(voters, reports)
	v := hashVerdict{wrong: map[raft.ServerID]*clusterv1.Checkpoint{}}
	if len(compared) > 0 {
		v.compared = compared[0].index
	}
	of := func(id raft.ServerID, want func(comparison) bool) (out []comparison) {
		for _, c := range compared { // newest first
			if _, ok := c.hashes[id]; ok && want(c) {
				out = append(out, c)
			}
		}
		return out
	}
	for _, r := range reports {
		decided := of(r.id, func(c comparison) bool { return c.right != nil })
		if lastTwo(decided, func(c comparison) bool { return c.hashes[r.id] != c.right.GetHash() }) {
			v.wrong[r.id] = decided[0].right
		}
	}
	disputed := func(c comparison) bool { return c.right == nil && c.differs(v.wrong) }
	for _, r := range reports {
		if v.wrong[r.id] == nil && lastTwo(of(r.id, func(comparison) bool { return true }), disputed) {
			v.unclear = append(v.unclear, r.id)
		}
	}
	slices.Sort(v.unclear)
	return v
}

// lastTwo reports whether there are two comparisons and the condition holds for the last two.
func lastTwo(newestFirst []comparison, holds func(comparison) bool) bool {
	return len(newestFirst) >= 2 && holds(newestFirst[0]) && holds(newestFirst[1])
}

// comparison holds the hashes of one checkpoint that several members have reported.
type comparison struct {
	index  uint64
	hashes map[raft.ServerID]uint64
	right  *clusterv1.Checkpoint // that of a majority of the voters; nil if there is none
}

// differs reports whether two members have different hashes. It ignores the members in wrong.
func (c comparison) differs(wrong map[raft.ServerID]*clusterv1.Checkpoint) bool {
	seen := map[uint64]bool{}
	for id, h := range c.hashes {
		if wrong[id] == nil {
			seen[h] = true
		}
	}
	return len(seen) > 1
}

// compareHashes returns the checkpoints that at least two members have reported, newest first.
func compareHashes(voters int, reports []hashReport) []comparison {
	type key struct {
		version string
		index   uint64
	}
	byKey := map[key]*comparison{}
	votes := map[key]map[uint64]int{} // voters by hash
	for _, r := range reports {
		for _, p := range r.checkpoints {
			k := key{p.GetVersion(), p.GetIndex()}
			c := byKey[k]
			if c == nil {
				c = &comparison{index: k.index, hashes: map[raft.ServerID]uint64{}}
				byKey[k], votes[k] = c, map[uint64]int{}
			}
			c.hashes[r.id] = p.GetHash()
			if r.voter {
				votes[k][p.GetHash()]++
			}
			if votes[k][p.GetHash()] > voters/2 {
				c.right = p
			}
		}
	}
	var out []comparison
	for _, c := range byKey {
		if len(c.hashes) >= 2 {
			out = append(out, *c)
		}
	}
	slices.SortFunc(out, func(a, b comparison) int { return cmp.Compare(b.index, a.index) })
	return out
}
