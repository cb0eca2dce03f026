package cluster_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/proto"

	"github.com/image-builder-ha/image-builder/cluster"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_Propose_RefusalIsDefinite lets the leader refuse a command, so that it is not proposed.
// Every node reports the refusal with its reason, and not an unknown outcome.
func Test_Propose_RefusalIsDefinite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := threeSimulated(t, inMemory, func(c *cluster.Config) {
			c.Prepare = func(_ context.Context, cmd *clusterv1.Command) (*clusterv1.Command, error) {
				if cmd.Type == 1 {
					return nil, errors.New("no sealing key is held by all nodes")
				}
				return cmd, nil
			}
		})
		const want = "the leader refused the command, and it was not proposed: no sealing key is held by all nodes"
		for _, name := range g.names {
			m := g.nodes[name]
			_, err := m.Propose(t.Context(), value(1))
			if !errors.Is(err, cluster.ErrRefused) || errors.Is(err, cluster.ErrOutcomeUnknown) || err.Error() != want {
				t.Errorf("a node that leads (%v) reports %v, want %q", m.Leads(), err, want)
			}
		}
	})
}

// Test_Propose_PreparesTheCommandOfTheCaller lets a leader lose the leadership after it has
// prepared a command. The next leader must prepare the command of the caller, and not the command
// that the former leader has prepared. The command of the caller does not change.
func Test_Propose_PreparesTheCommandOfTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g *simGroup
		var mu sync.Mutex
		var prepared []string // by which node
		prepare := func(c *cluster.Config) {
			name := c.Name
			c.Prepare = func(ctx context.Context, cmd *clusterv1.Command) (*clusterv1.Command, error) {
				if cmd.Type != 1 {
					return cmd, nil
				}
				mu.Lock()
				first := len(prepared) == 0
				prepared = append(prepared, name)
				mu.Unlock()
				if string(cmd.Payload) != string(value(7).Payload) {
					t.Errorf("%s prepares %x", name, cmd.Payload)
				}
				if first {
					if err := g.nodes[name].TransferLeadership(ctx, ""); err != nil {
						t.Error(err)
					}
				}
				cmd = proto.CloneOf(cmd)
				cmd.Payload = value(107).Payload
				return cmd, nil
			}
		}
		g = threeSimulated(t, inMemory, prepare)
		lead := g.leader()
		cmd := value(7)
		before := proto.CloneOf(cmd)
		if _, err := lead.Propose(t.Context(), cmd); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(cmd, before) {
			t.Errorf("the command of the caller is now %v", cmd)
		}
		if len(prepared) < 2 || prepared[0] == prepared[len(prepared)-1] {
			t.Fatalf("the command was prepared by %s: the leadership did not change", strings.Join(prepared, ", "))
		}
		if got := lead.sm.values(); !slices.Equal(got, []uint64{107}) {
			t.Errorf("the values are %v", got)
		}
	})
}
