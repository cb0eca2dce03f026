package cluster

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// Test_Autopilot_PromotesMembersOnly removes a node after autopilot has decided to promote it. The
// node must stay removed.
func Test_Autopilot_PromotesMembersOnly(t *testing.T) {
	store := raft.NewInmemStore()
	address, transport := raft.NewInmemTransport("")
	conf := raft.DefaultConfig()
	conf.LocalID, conf.LogOutput = "a/1", io.Discard
	conf.HeartbeatTimeout, conf.ElectionTimeout, conf.LeaderLeaseTimeout = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	if err := raft.BootstrapCluster(conf, store, store, raft.NewInmemSnapshotStore(), transport, raft.Configuration{Servers: []raft.Server{{ID: "a/1", Address: address}}}); err != nil {
		t.Fatal(err)
	}
	r, err := raft.NewRaft(conf, &raft.MockFSM{}, store, store, raft.NewInmemSnapshotStore(), transport)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Shutdown().Error() })
	<-r.LeaderCh()
	n := &Node{membership: make(chan struct{}, 1)}
	n.raft.Store(r)
	raftCalls := autopilotRaft{r, n, t.Context(), r.CurrentTerm()}
	must := func(f raft.IndexFuture) {
		t.Helper()
		if err := f.Error(); err != nil {
			t.Fatal(err)
		}
	}
	must(r.AddNonvoter("b/2", "b", 0, 0))
	must(r.RemoveServer("b/2", 0, 0))
	if err := raftCalls.AddVoter("b/2", "b", 0, 0).Error(); err == nil {
		t.Error("a removed node was promoted")
	}
	if servers := r.GetConfiguration().Configuration().Servers; len(servers) != 1 {
		t.Errorf("the members are %v", servers)
	}
	must(r.AddNonvoter("b/2", "b", 0, 0))
	former := autopilotRaft{r, n, t.Context(), r.CurrentTerm() - 1}
	if err := former.AddVoter("b/2", "b", 0, 0).Error(); !errors.Is(err, ErrNoLeader) {
		t.Errorf("a promotion of a former term: %v, want %v", err, ErrNoLeader)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	var promotion sync.WaitGroup
	defer promotion.Wait()
	defer cancel()
	promotion.Go(func() { // b does not respond, so the change is never committed
		_ = autopilotRaft{r, n, ctx, r.CurrentTerm()}.AddVoter("b/2", "b", 0, 0).Error()
	})
	for r.GetConfiguration().Configuration().Servers[1].Suffrage != raft.Voter {
		select {
		case <-ctx.Done():
			t.Fatal("the member was not promoted")
		case <-time.After(time.Millisecond):
		}
	}
}
