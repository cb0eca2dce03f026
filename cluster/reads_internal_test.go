package cluster

import (
	"testing"

	"github.com/hashicorp/raft"
)

// Test_LastCommand checks that a read index includes every command that a follower may have shown,
// and is not the index of an entry that never reaches the state machine.
func Test_LastCommand(t *testing.T) {
	log := raft.NewInmemStore()
	for i, kind := range []raft.LogType{raft.LogNoop, raft.LogCommand, raft.LogCommand, raft.LogBarrier, raft.LogCommand, raft.LogNoop, raft.LogConfiguration} {
		if err := log.StoreLog(&raft.Log{Index: uint64(i + 11), Type: kind}); err != nil { // from 11 on: earlier entries are in a snapshot
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name                     string
		committed, applied, want uint64
	}{
		{"the state trails what is committed", 13, 12, 13},
		{"far behind", 17, 8, 15},
		{"only entries that reach no state since", 17, 15, 15},
		{"a barrier after the last command", 14, 13, 13},
		{"all is applied", 15, 15, 15},
		{"the state is ahead of what is known to be committed", 13, 15, 15},
		{"nothing but a snapshot", 11, 10, 10},
		{"what is committed is in a snapshot", 9, 8, 8},
	} {
		if got, err := lastCommand(log, c.committed, func() uint64 { return c.applied }); err != nil || got != c.want {
			t.Errorf("%s: index %d (%v), want %d", c.name, got, err, c.want)
		}
	}
}

// Test_LastCommand_TheLogIsCutMeanwhile applies all commands and removes them from the log after the
// applied index was read. The read index must include them.
func Test_LastCommand_TheLogIsCutMeanwhile(t *testing.T) {
	log := raft.NewInmemStore()
	for i := uint64(1); i <= 20; i++ {
		if err := log.StoreLog(&raft.Log{Index: i, Type: raft.LogNoop}); err != nil {
			t.Fatal(err)
		}
	}
	applied := uint64(5)
	got, err := lastCommand(log, 15, func() uint64 {
		defer func() {
			applied = 15
			if err := log.DeleteRange(1, 15); err != nil {
				t.Error(err)
			}
		}()
		return applied
	})
	if err != nil || got != 15 {
		t.Errorf("index %d (%v), want 15", got, err)
	}
}
