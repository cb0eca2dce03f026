package builds

import (
	"bytes"
	"testing"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Test_Restore_KeepsTheLevel restores the state of a cluster of a lower feature level. The level of
// the command that follows holds, unless that of the state is greater.
func Test_Restore_KeepsTheLevel(t *testing.T) {
	for _, c := range []struct{ state, command, want uint32 }{{4, 5, 5}, {5, 5, 5}, {5, 4, 5}} {
		old := NewState()
		old.level, old.index = c.state, 7
		var b bytes.Buffer
		if _, err := (snapshot{state: old}).WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		s := NewStore()
		if err := s.Restore(&b); err != nil {
			t.Fatal(err)
		}
		for i, cmd := range []*clusterv1.Command{
			{Ignorable: true, FeatureLevel: c.command, Restore: &clusterv1.SnapshotRef{}},
			{Ignorable: true, FeatureLevel: FeatureLevel}, // of another kind: no effect
		} {
			if err, failed := s.Apply(uint64(8+i), cmd).(error); failed {
				t.Fatal(err)
			}
			if got := s.View().Level(); got != c.want {
				t.Errorf("%+v: the level is %d after %d commands", c, got, i+1)
			}
		}
	}
}
