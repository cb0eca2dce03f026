package cluster_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_Term_EndsWhilePreparing lets a leader lose the leadership and get it back while it prepares a
// command of its former term. The command must not take effect in the later term.
func Test_Term_EndsWhilePreparing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var nodes []*cluster.Node
		ready := make(chan struct{}) // closed once nodes is set
		var busy atomic.Bool
		result := make(chan error, 1)
		states := make([]*tally, 3)
		awaitRole := func(n *cluster.Node, role raft.RaftState) {
			for deadline := time.Now().Add(time.Minute); n.Status().Role != role.String(); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(deadline) {
					t.Errorf("%s is %s, want %s", n.Status().Name, n.Status().Role, role)
					return
				}
			}
		}
		// comeBack makes the leadership go to another node and back.
		comeBack := func(n *cluster.Node) {
			if err := n.TransferLeadership(t.Context(), ""); err != nil {
				t.Error(err)
			}
			awaitRole(n, raft.Follower)
			others := slices.DeleteFunc(slices.Clone(nodes), func(o *cluster.Node) bool { return o == n })
			if err := leads(t, others).TransferLeadership(t.Context(), n.Status().Name); err != nil {
				t.Error(err)
			}
			awaitRole(n, raft.Leader)
		}
		nodes = simulated(t, 3, func(i int, c *cluster.Config) {
			states[i] = c.StateMachine.(*tally)
			c.Prepare = func(_ context.Context, cmd *clusterv1.Command) (*clusterv1.Command, error) {
				if cmd.Type == 1 && busy.Load() {
					comeBack(nodes[i])
				}
				return cmd, nil
			}
		}, func(_ int, n *cluster.Node) {
			n.Lead(func(ctx context.Context, term *cluster.Term) error {
				<-ready
				time.Sleep(10 * time.Second)
				if ctx.Err() == nil && busy.CompareAndSwap(false, true) {
					_, err := term.Propose(t.Context(), value(1))
					result <- err
				}
				return nil
			})
		})
		close(ready)
		if err := <-result; !errors.Is(err, cluster.ErrNoLeader) {
			t.Errorf("the command of the former term: %v, want %v", err, cluster.ErrNoLeader)
		}
		busy.Store(false)
		put(t, leads(t, nodes), 2)
		for i, s := range states {
			if got := s.values(); slices.Contains(got, 1) {
				t.Errorf("n%d has applied the values %v", i, got)
			}
		}
		closeAll(t, nodes)
	})
}

// Test_Propose_EndsWithTheLeaderOfItsConnection checks that a call to a leader ends when the node
// knows another leader, even if it learned so before the call began.
func Test_Propose_EndsWithTheLeaderOfItsConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t, inMemory)
		lead := g.leader()
		n := g.nodes[g.others(lead.cfg.Name)[0]]
		call, done := n.WhileLed(t.Context(), lead.ServerID())
		defer done()
		synctest.Wait()
		if err := call.Err(); err != nil {
			t.Errorf("a call to the leader ends: %v", err)
		}
		if err := lead.TransferLeadership(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
		g.leader()
		late, done := n.WhileLed(t.Context(), lead.ServerID())
		defer done()
		synctest.Wait()
		if call.Err() == nil || late.Err() == nil {
			t.Errorf("calls to the former leader go on: %v, %v", call.Err(), late.Err())
		}
	})
}
