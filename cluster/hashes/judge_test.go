package hashes

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/raft"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// reported returns the checkpoints 10, 20, 30 and so on with the given hashes; 0 stands for none.
func reported(hashes ...uint64) (out []*clusterv1.Checkpoint) {
	for i, h := range hashes {
		if h != 0 {
			out = append(out, &clusterv1.Checkpoint{Version: "1", Index: uint64(10 * (i + 1)), Hash: h})
		}
	}
	return out
}

func ofVersion(v string, list []*clusterv1.Checkpoint) []*clusterv1.Checkpoint {
	for _, c := range list {
		c.Version = v
	}
	return list
}

func Test_Judge(t *testing.T) {
	type verdict struct {
		Wrong    map[raft.ServerID]uint64 // index of the newest checkpoint
		Unclear  []raft.ServerID
		Compared uint64
	}
	voter := func(id raft.ServerID, c []*clusterv1.Checkpoint) Report { return Report{id, true, c} }
	other := func(id raft.ServerID, c []*clusterv1.Checkpoint) Report { return Report{id, false, c} }
	for _, c := range []struct {
		name    string
		voters  int
		reports []Report
		want    verdict
	}{
		{name: "nobody reports", voters: 3, reports: []Report{voter("a", nil), voter("b", nil), voter("c", nil)}},
		{name: "one reports", voters: 3, reports: []Report{voter("a", reported(1, 2)), voter("b", nil), voter("c", nil)}},
		{
			name: "all agree", voters: 3,
			reports: []Report{voter("a", reported(1, 2)), voter("b", reported(1, 2)), voter("c", reported(1, 2))},
			want:    verdict{Compared: 20},
		},
		{
			name: "one differs at one checkpoint", voters: 3,
			reports: []Report{voter("a", reported(1, 2)), voter("b", reported(1, 2)), voter("c", reported(1, 9))},
			want:    verdict{Compared: 20},
		},
		{
			name: "one differs at two checkpoints", voters: 3,
			reports: []Report{voter("a", reported(1, 2, 3)), voter("b", reported(1, 2, 3)), voter("c", reported(1, 8, 9))},
			want:    verdict{Wrong: map[raft.ServerID]uint64{"c": 30}, Compared: 30},
		},
		{
			name: "one has differed and agrees again", voters: 3,
			reports: []Report{voter("a", reported(1, 2, 3)), voter("b", reported(1, 2, 3)), voter("c", reported(8, 9, 3))},
			want:    verdict{Compared: 30},
		},
		{
			name: "one differs and is a checkpoint behind", voters: 3,
			reports: []Report{voter("a", reported(1, 2, 3)), voter("b", reported(1, 2, 3)), voter("c", reported(8, 9))},
			want:    verdict{Wrong: map[raft.ServerID]uint64{"c": 20}, Compared: 30},
		},
		{
			name: "one has a replaced state", voters: 3,
			reports: []Report{voter("a", reported(1, 2, 3, 4)), voter("b", reported(1, 2, 3, 4)), voter("c", reported(0, 0, 3, 4))},
			want:    verdict{Compared: 40},
		},
		{
			name: "no common checkpoint", voters: 3,
			reports: []Report{voter("a", reported(1, 2, 0, 0)), voter("b", reported(0, 0, 3, 4)), voter("c", nil)},
		},
		{
			name: "one against one of three", voters: 3,
			reports: []Report{voter("a", reported(1, 2)), voter("b", reported(8, 9)), voter("c", nil)},
			want:    verdict{Unclear: []raft.ServerID{"a", "b"}, Compared: 20},
		},
		{
			name: "one against one of two", voters: 2,
			reports: []Report{voter("a", reported(1, 2)), voter("b", reported(8, 9))},
			want:    verdict{Unclear: []raft.ServerID{"a", "b"}, Compared: 20},
		},
		{
			name: "all of three differ", voters: 3,
			reports: []Report{voter("a", reported(1, 2)), voter("b", reported(5, 6)), voter("c", reported(8, 9))},
			want:    verdict{Unclear: []raft.ServerID{"a", "b", "c"}, Compared: 20},
		},
		{
			name: "two against one of five, of which two do not report", voters: 5,
			reports: []Report{voter("a", reported(1, 2)), voter("b", reported(1, 2)), voter("c", reported(8, 9)), voter("d", nil), voter("e", nil)},
			want:    verdict{Unclear: []raft.ServerID{"a", "b", "c"}, Compared: 20},
		},
		{
			name: "three against two of five", voters: 5,
			reports: []Report{voter("a", reported(1, 2)), voter("b", reported(8, 9)), voter("c", reported(1, 2)), voter("d", reported(8, 9)), voter("e", reported(1, 2))},
			want:    verdict{Wrong: map[raft.ServerID]uint64{"b": 20, "d": 20}, Compared: 20},
		},
		{
			name: "a node without a vote differs", voters: 3,
			reports: []Report{voter("a", reported(1, 2)), voter("b", reported(1, 2)), voter("c", reported(1, 2)), other("d", reported(8, 9))},
			want:    verdict{Wrong: map[raft.ServerID]uint64{"d": 20}, Compared: 20},
		},
		{
			name: "nodes without a vote make no majority", voters: 3,
			reports: []Report{voter("a", reported(1, 2)), other("b", reported(8, 9)), other("c", reported(8, 9)), other("d", reported(8, 9))},
			want:    verdict{Unclear: []raft.ServerID{"a", "b", "c", "d"}, Compared: 20},
		},
		{
			name: "another version is not compared", voters: 3,
			reports: []Report{voter("a", reported(1, 2)), voter("b", reported(1, 2)), voter("c", ofVersion("2", reported(8, 9)))},
			want:    verdict{Compared: 20},
		},
		{
			name: "two of another version differ at one checkpoint", voters: 3,
			reports: []Report{voter("a", reported(1, 2)), voter("b", ofVersion("2", reported(8, 9))), voter("c", ofVersion("2", reported(8, 7)))},
			want:    verdict{Compared: 20},
		},
		{
			name: "the third has not reported the newest checkpoints yet", voters: 3,
			reports: []Report{voter("a", reported(1, 2, 3, 4)), voter("b", reported(1, 2)), voter("c", reported(8, 9, 8, 9))},
			want:    verdict{Wrong: map[raft.ServerID]uint64{"c": 20}, Compared: 40},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 { // the order of the members does not matter
				v := Judge(c.voters, c.reports)
				got := verdict{Unclear: v.Unclear, Compared: v.Compared}
				for id, right := range v.Wrong {
					if got.Wrong == nil {
						got.Wrong = map[raft.ServerID]uint64{}
					}
					got.Wrong[id] = right.Index
				}
				if d := cmp.Diff(c.want, got); d != "" {
					t.Error(d)
				}
				slices.Reverse(c.reports)
			}
		})
	}
}
