// Package hashes judges which members have a wrong state, by the hashes that they report. Its
// functions are pure.
package hashes

import (
	"cmp"
	"slices"

	"github.com/hashicorp/raft"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Report describes the state of one member, as the member reports it.
type Report struct {
	ID          raft.ServerID
	Voter       bool
	Checkpoints []*clusterv1.Checkpoint
}

// Verdict names the members whose states differ.
type Verdict struct {
	// Wrong holds the members whose state differs from that of a majority of the voters, with the
	// newest checkpoint of the majority at which they differ.
	Wrong map[raft.ServerID]*clusterv1.Checkpoint
	// Unclear holds the members, sorted, whose states differ while no majority of the voters
	// agrees: the state of at least one of them is wrong.
	Unclear []raft.ServerID
	// Compared is the index of the newest checkpoint that at least two members have; 0 if there is
	// none.
	Compared uint64
}

// Judge compares the states of members. voters is the number of all voters. Only checkpoints of the
// same version and index are compared. A state is wrong if it differs at two consecutive
// checkpoints at which a majority of the voters agrees. So less than a half of the voters is ever
// wrong. Members that do not report a checkpoint agree with nobody.
func Judge(voters int, reports []Report) Verdict {
	compared := compare(voters, reports)
	v := Verdict{Wrong: map[raft.ServerID]*clusterv1.Checkpoint{}}
	if len(compared) > 0 {
		v.Compared = compared[0].index
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
		decided := of(r.ID, func(c comparison) bool { return c.right != nil })
		if lastTwo(decided, func(c comparison) bool { return c.hashes[r.ID] != c.right.GetHash() }) {
			v.Wrong[r.ID] = decided[0].right
		}
	}
	disputed := func(c comparison) bool { return c.right == nil && c.differs(v.Wrong) }
	for _, r := range reports {
		if v.Wrong[r.ID] == nil && lastTwo(of(r.ID, func(comparison) bool { return true }), disputed) {
			v.Unclear = append(v.Unclear, r.ID)
		}
	}
	slices.Sort(v.Unclear)
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

// compare returns the checkpoints that at least two members have reported, newest first.
func compare(voters int, reports []Report) []comparison {
	type key struct {
		version string
		index   uint64
	}
	byKey := map[key]*comparison{}
	votes := map[key]map[uint64]int{} // voters by hash
	for _, r := range reports {
		for _, p := range r.Checkpoints {
			k := key{p.GetVersion(), p.GetIndex()}
			c := byKey[k]
			if c == nil {
				c = &comparison{index: k.index, hashes: map[raft.ServerID]uint64{}}
				byKey[k], votes[k] = c, map[uint64]int{}
			}
			c.hashes[r.ID] = p.GetHash()
			if r.Voter {
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
