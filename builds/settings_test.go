package builds

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	buildsv1 "github.com/image-builder-ha/image-builder/proto/builds/v1"
)

// Test_NewState_SettingsOfFormerVersions: a node that applies the log from its beginning, and a node
// that continues with a snapshot of 0.3.0, have the same state. A new default must not change it.
func Test_NewState_SettingsOfFormerVersions(t *testing.T) {
	former := &buildsv1.Settings{ // of 0.3.0; never change them
		HistoryTotal: 10000, HistoryPerRequester: 2000,
		HistoryMaxAgeNanos: int64(7 * 24 * time.Hour), HistoryMinAgeNanos: int64(10 * time.Minute),
		RequestIdAgeNanos: int64(24 * time.Hour), Attempts: 3, UncountedAttempts: 10,
		RetryBaseNanos: int64(time.Second), RetryMaxNanos: int64(time.Minute), QueueTotal: 100000,
	}
	if got := NewState().Settings(); !proto.Equal(got, former) {
		t.Errorf("a new state has the settings %v, want %v", got, former)
	}
	apply := func(s *State, from, to uint64) {
		for i := from; i <= to; i++ {
			cmd, err := NewCommand(&buildsv1.NodeStarted{Name: "n1", StoreId: "s1", BootId: fmt.Sprint(i), Capacity: 1})
			if err != nil {
				t.Fatal(err)
			}
			cmd.TimeUnixNano = int64(i) * int64(time.Second)
			if _, _, err := s.Apply(i, cmd); err != nil {
				t.Fatal(err)
			}
		}
	}
	dump := func(s *State) []byte {
		var b bytes.Buffer
		if _, err := (snapshot{state: s}).WriteTo(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	old := NewState()
	old.settings = former
	apply(old, 1, 10)
	restored, err := readSnapshot(bytes.NewReader(dump(old)))
	if err != nil {
		t.Fatal(err)
	}
	apply(restored, 11, 20)
	replayed := NewState()
	apply(replayed, 1, 20)
	if !bytes.Equal(dump(restored), dump(replayed)) {
		t.Errorf("the states differ: %v and %v", restored.header(), replayed.header())
	}
}
