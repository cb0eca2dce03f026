package cluster

import (
	"testing"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
	"github.com/image-builder-ha/image-builder/cluster/transport"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_Floors_OlderThanTheIdentity checks a server that goes on to acknowledge entries while its
// identity is in flight, and one that has really lost entries.
func Test_Floors_OlderThanTheIdentity(t *testing.T) {
	n, err := New(Config{
		Name: "n", DataDir: t.TempDir(), StateMachine: struct{ StateMachine }{}, Network: transport.Nowhere("n:1"),
		FeatureLevel: 5, FloorLevel: 5, CommittedLevel: func() uint32 { return 5 },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.dir.Change(func(d *datadir.Identity) error { d.ClusterID = "c"; return nil }); err != nil {
		t.Fatal(err)
	}
	n.floors.raise("f/1", 10)
	admit := (*local)(n).Admission()
	n.floors.raise("f/1", 20)
	for last, want := range map[uint64]bool{9: false, 10: true, 15: true, 20: true} {
		from := &clusterv1.Identity{Cluster: DefaultCluster, ClusterId: "c", ServerId: "f/1", FeatureLevel: 5, LastIndex: &last}
		if err := admit(from, n.ServerID()); (err == nil) != want {
			t.Errorf("last index %d: %v", last, err)
		}
	}
}

// changingLog is a log whose last two entries a leader of term 3 replaces by one when its end is
// read.
type changingLog struct{ *raft.InmemStore }

func (l changingLog) LastIndex() uint64 {
	last, _ := l.InmemStore.LastIndex()
	if last == 10 {
		_ = l.DeleteRange(9, 10)
		_ = l.StoreLog(&raft.Log{Index: 9, Term: 3})
	}
	return last
}

func (l changingLog) Stats() map[string]string { return map[string]string{"last_log_term": "3"} }

// Test_Floors_TheLogChangesDuringAPing checks that a ping reports no entry of a former term as one of
// the leader's term.
func Test_Floors_TheLogChangesDuringAPing(t *testing.T) {
	l := changingLog{raft.NewInmemStore()}
	for i := uint64(1); i <= 10; i++ {
		if err := l.StoreLog(&raft.Log{Index: i, Term: 2}); err != nil {
			t.Fatal(err)
		}
	}
	n := &Node{log: l.InmemStore}
	if index, term := n.lastEntry(l); term == 3 && index != 9 {
		t.Errorf("the last entry is %d of term %d, want 9 of term 3", index, term)
	}
}

// Test_Floors_WhatAPingShows checks which entries a member has acknowledged for certain.
func Test_Floors_WhatAPingShows(t *testing.T) {
	for _, c := range []struct {
		name                string
		lastIndex, lastTerm uint64
		term, committed     uint64
		want                uint64
	}{
		{"all is committed", 10, 3, 3, 10, 10},
		{"the end is not committed", 10, 3, 3, 8, 8},
		{"the member trails", 6, 3, 3, 8, 6},
		{"the end is of a former term and may be removed", 10, 2, 3, 10, 0},
		{"the term is over", 10, 3, 3, 0, 0},
	} {
		if got := acknowledged(&clusterv1.PingResponse{LastIndex: c.lastIndex, LastTerm: c.lastTerm}, c.term, c.committed); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
