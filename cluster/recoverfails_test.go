package cluster_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/image-builder-ha/image-builder/cluster"
	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_Recover_ThatFailsChangesNothing recovers a node whose log cannot be applied. The node stays in
// its cluster, and can be recovered once the cause is removed.
func Test_Recover_ThatFailsChangesNothing(t *testing.T) {
	for _, c := range []struct {
		name string
		// damage makes the log of the node inapplicable for a recovery with the level, until mend.
		damage func(t *testing.T, n *cluster.Node, dir string) (mend func())
		level  uint32
		want   string
	}{
		{"the snapshot of a restore is missing", func(t *testing.T, _ *cluster.Node, dir string) func() {
			from := filepath.Join(dir, "restore")
			if err := os.Rename(from, from+"-away"); err != nil {
				t.Fatal(err)
			}
			return func() {
				if err := os.Rename(from+"-away", from); err != nil {
					t.Fatal(err)
				}
			}
		}, 5, "copy the file from that directory of another node"},
		{"a version that is too old", func(*testing.T, *cluster.Node, string) func() { return func() {} }, 4, "this version knows 4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := fastConfig(t.TempDir(), &tally{})
			cfg.FeatureLevel, cfg.RestoreLevel, cfg.CommittedLevel = 5, 5, func() uint32 { return 5 }
			n := open(t, cfg)
			put(t, n, 1)
			backup := savedState(t, n)
			put(t, n, 2)
			if err := n.RestoreSnapshot(t.Context(), backup); err != nil {
				t.Fatal(err)
			}
			put(t, n, 3)
			id := n.Status().ClusterID
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			mend := c.damage(t, n, cfg.DataDir)
			cfg.StateMachine, cfg.FeatureLevel = &tally{}, c.level
			err := cluster.Recover(cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "nothing has changed") {
				t.Errorf("the recovery: %v", err)
			}
			mend()
			cfg.FeatureLevel = 5
			for _, recovered := range []bool{false, true} {
				if recovered {
					cfg.StateMachine = &tally{}
					if err := cluster.Recover(cfg); err != nil {
						t.Fatal(err)
					}
				}
				sm := &tally{}
				cfg.StateMachine = sm
				n = open(t, cfg)
				if _, err := n.Propose(t.Context(), &clusterv1.Command{}); err != nil {
					t.Fatal(err)
				}
				if got := sm.values(); !slices.Equal(got, []uint64{1, 3}) {
					t.Errorf("the state is %v", got)
				}
				if same := n.Status().ClusterID == id; same == recovered {
					t.Errorf("recovered: %v, the cluster id is the former one: %v", recovered, same)
				}
				if err := n.Close(); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
