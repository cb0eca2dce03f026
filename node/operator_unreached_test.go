package node

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/image-builder-ha/image-builder/builds"
	"github.com/image-builder-ha/image-builder/cluster"
	"github.com/image-builder-ha/image-builder/cluster/clustertest"
	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// threeOf returns the nodes of a simulated cluster of three, which has a leader, and its network.
func threeOf(t *testing.T) ([]*Node, *clustertest.Hub) {
	t.Helper()
	hub := clustertest.NewHub(1)
	peers := []string{"n0:1", "n1:1", "n2:1"}
	var nodes []*Node
	for i, peer := range peers {
		n := lone(t, t.TempDir())
		n.cfg.Name = fmt.Sprintf("n%d", i)
		storage := clustertest.NewStorage()
		var err error
		if n.cluster, err = cluster.New(cluster.Config{
			Name: n.cfg.Name, DataDir: t.TempDir(), StateMachine: n.store, FeatureLevel: builds.FeatureLevel, CommittedLevel: n.level,
			Network: hub.NewNetwork(n.cfg.Name, peer), Storage: &storage, Expect: 3, BootID: n.cfg.Name,
			Discover: func(context.Context) ([]string, error) { return peers, nil },
			Serve: []func(grpc.ServiceRegistrar){func(r grpc.ServiceRegistrar) {
				imagebuilderv1.RegisterClusterServer(r, clusterAPI{node: n, peer: true})
			}},
		}); err != nil {
			t.Fatal(err)
		}
		if err := n.cluster.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.cluster.Close() })
		n.raft = raftAdapter{n.cluster}
		nodes = append(nodes, n)
	}
	if _, err := nodes[0].raft.ReadIndex(t.Context()); err != nil { // waits for the leader
		t.Fatal(err)
	}
	lead := nodes[max(0, slices.IndexFunc(nodes, func(n *Node) bool { return n.cluster.Leads() }))]
	if _, _, err := builds.Propose(t.Context(), lead.raft, &buildsv1.SetFeatureLevel{Level: 2}); err != nil {
		t.Fatal(err)
	}
	return nodes, hub
}

// Test_Operator_KnownToBeWithoutLeader checks that calls of operators wait during an election, and
// fail at once with a text that says what to do when no leader has responded for long.
func Test_Operator_KnownToBeWithoutLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, hub := threeOf(t)
		api := clusterAPI{node: nodes[0]}
		calls := map[string]func() error{
			"Members": func() error {
				_, err := api.Members(t.Context(), &imagebuilderv1.MembersRequest{})
				return err
			},
			"DrainNode": func() error {
				_, err := api.DrainNode(t.Context(), &imagebuilderv1.DrainNodeRequest{Node: "n0"})
				return err
			},
			"RemoveNode": func() error {
				_, err := api.RemoveNode(t.Context(), &imagebuilderv1.RemoveNodeRequest{Node: "n1"})
				return err
			},
			"TransferLeadership": func() error {
				_, err := api.TransferLeadership(t.Context(), &imagebuilderv1.TransferLeadershipRequest{})
				return err
			},
			"Reseal": func() error {
				_, err := api.Reseal(t.Context(), &imagebuilderv1.ResealRequest{})
				return err
			},
			"SaveSnapshot": func() error { return api.SaveSnapshot(nil, snapshotStream{ctx: t.Context()}) },
		}
		hub.Part([]string{"n0"}, []string{"n1", "n2"})
		time.Sleep(600 * time.Millisecond) // simulated: also a former leader leads no more
		began := time.Now()
		if err := calls["Members"](); status.Code(err) != codes.Unavailable || time.Since(began) < 100*time.Millisecond || time.Since(began) > 600*time.Millisecond {
			t.Errorf("Members while a leader may be elected: %v after %s", err, time.Since(began))
		}
		time.Sleep(cluster.UnreachableTimeout)
		for name, call := range calls {
			began := time.Now()
			err := call()
			if took := time.Since(began); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), cluster.UnreachedText) || took != 0 {
				t.Errorf("%s without a leader: %v after %s", name, err, took)
			}
		}
		hub.Heal()
		time.Sleep(5 * time.Second)
		if err := calls["Members"](); err != nil {
			t.Errorf("Members with a leader: %v", err)
		}
	})
}

// Test_DrainNode_OnANodeThatIsBehind calls DrainNode on nodes that have not applied the feature level
// of the cluster yet, as after their start.
func Test_DrainNode_OnANodeThatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, _ := threeOf(t)
		behind := slices.DeleteFunc(nodes, func(n *Node) bool { return n.level() >= 2 })
		if len(behind) == 0 {
			t.Fatal("no node is behind: this shows nothing")
		}
		for _, n := range behind {
			if _, err := (clusterAPI{node: n}).DrainNode(t.Context(), &imagebuilderv1.DrainNodeRequest{Node: "n9"}); status.Code(err) != codes.NotFound {
				t.Errorf("%s: %v", n.cfg.Name, err)
			}
		}
	})
}

// Test_Members_OfANodeThatDoesNotLead checks the states that a node knows without the leader: its
// own, and that of the leader which it follows.
func Test_Members_OfANodeThatDoesNotLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		nodes, hub := threeOf(t)
		time.Sleep(5 * time.Second) // simulated: all nodes know the leader
		var n *Node
		for _, o := range nodes {
			if !o.cluster.Leads() {
				n = o
			}
		}
		states := func() map[string]string {
			res, err := clusterAPI{node: n}.Members(t.Context(), &imagebuilderv1.MembersRequest{Stale: true})
			if err != nil {
				t.Fatal(err)
			}
			out := map[string]string{}
			for _, m := range res.Members {
				role := "other"
				if m.Leader {
					role = "leader"
				} else if m.Name == n.cfg.Name {
					role = "self"
				}
				out[role] = m.State
			}
			return out
		}
		if got := states(); got["self"] != "alive" || got["leader"] != "alive" || got["other"] != "unknown" {
			t.Errorf("with a leader: %v", got)
		}
		for _, o := range nodes {
			if o != n {
				hub.Part([]string{n.cfg.Name}, []string{o.cfg.Name})
			}
		}
		time.Sleep(5 * time.Second)
		if got := states(); got["self"] != "alive" || got["other"] != "unknown" || got["leader"] != "" {
			t.Errorf("without a leader: %v", got)
		}
	})
}
