package fsm

import (
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_Restore_OfANewerVersion passes a node a restore that needs a greater feature level than the
// node supports. The node must stop before it looks for the snapshot.
func Test_Restore_OfANewerVersion(t *testing.T) {
	f := New(Options{Machine: &indexes{}, Origin: "n", Level: 5, RestoreData: func(*clusterv1.SnapshotRef, uint64) ([]byte, bool, error) {
		t.Error("the node looks for the snapshot")
		return nil, false, ErrStopsApplying
	}})
	raw, err := proto.Marshal(&clusterv1.Command{FeatureLevel: 6, Restore: &clusterv1.SnapshotRef{}})
	if err != nil {
		t.Fatal(err)
	}
	f.Apply(&raft.Log{Index: 3, Term: 1, Data: raw})
	select {
	case err := <-f.fatal:
		if !strings.Contains(err.Error(), "needs feature level 6, this version knows 5") {
			t.Error(err)
		}
	default:
		t.Error("the node does not stop")
	}
	if f.Index() != 0 {
		t.Errorf("the applied index is %d", f.Index())
	}
}
