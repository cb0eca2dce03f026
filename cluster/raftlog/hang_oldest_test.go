package raftlog_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/disktest"
)

// Test_Hang_Oldest makes each kind of change wait for a disk that hangs. Oldest must return its age.
func Test_Hang_Oldest(t *testing.T) {
	for name, change := range map[string]func(*testing.T, changer) error{
		"entries":                   func(_ *testing.T, log changer) error { return storeEntry(log, 4) },
		"the removal of the front":  func(_ *testing.T, log changer) error { return log.DeleteRange(1, 1) },
		"the removal of the end":    func(_ *testing.T, log changer) error { return log.DeleteRange(3, 3) },
		"entries after the removal": storeAfterRemoval,
		"a term":                    func(_ *testing.T, log changer) error { return log.SetUint64([]byte("CurrentTerm"), 2) },
		"a vote":                    func(_ *testing.T, log changer) error { return log.Set([]byte("LastVoteCand"), []byte("n1")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := disktest.NewDisk()
				log := openLog(t, disk.Mount(), true)
				for i := range uint64(3) {
					if err := storeEntry(log, i+1); err != nil {
						t.Fatal(err)
					}
				}
				works := disk.Hang()
				result := make(chan error, 1)
				go func() { result <- change(t, log) }()
				time.Sleep(time.Minute)
				if age := log.Oldest(); age != time.Minute {
					t.Errorf("after a minute the oldest change is %s old", age)
				}
				works()
				if err := <-result; err != nil {
					t.Error(err)
				}
				if age := log.Oldest(); age != 0 {
					t.Errorf("after all changes have ended one is %s old", age)
				}
			})
		})
	}
}

// changer changes the log, the term and the vote.
type changer interface {
	raft.LogStore
	raft.StableStore
}

func storeEntry(log raft.LogStore, index uint64) error {
	return log.StoreLogs([]*raft.Log{{Index: index, Term: 1, Data: make([]byte, 400)}})
}

// storeAfterRemoval stores an entry while a removal waits for the disk.
func storeAfterRemoval(t *testing.T, log changer) error {
	go func() {
		if err := log.DeleteRange(1, 1); err != nil {
			t.Error(err)
		}
	}()
	synctest.Wait()
	return storeEntry(log, 4)
}
