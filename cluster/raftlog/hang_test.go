package raftlog_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/cluster/disktest"
)

// Test_Hang_TimeGoesOn makes all changes of a log wait for a disk that hangs, at each point of a
// series of writes that fills several segments. Simulated time must go on, or the test deadlocks.
// Reads must not wait. Once the disk works, all changes succeed.
func Test_Hang_TimeGoesOn(t *testing.T) {
	for begin := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			disk := disktest.NewDisk()
			log := openLog(t, disk.Mount(), true)
			store := func(index uint64) {
				if err := log.StoreLogs([]*raft.Log{{Index: index, Term: 1, Data: make([]byte, 400)}}); err != nil {
					t.Errorf("entry %d: %v", index, err)
				}
			}
			for i := range begin {
				store(i + 1)
			}
			works := disk.Hang()
			results := make(chan error, 3)
			go func() {
				for i := range uint64(20) {
					store(begin + i + 1)
				}
				results <- nil
			}()
			synctest.Wait()
			go func() { results <- log.SetUint64([]byte("CurrentTerm"), 2) }()
			if begin > 0 {
				go func() { results <- log.DeleteRange(1, 1) }()
			} else {
				results <- nil
			}
			time.Sleep(time.Minute)
			if last, err := log.LastIndex(); err != nil || last < begin {
				t.Errorf("while the disk hangs the log ends at %d (%v), want %d or later", last, err, begin)
			}
			var entry raft.Log
			if err := log.GetLog(begin, &entry); begin > 0 && err != nil {
				t.Errorf("while the disk hangs entry %d cannot be read: %v", begin, err)
			}
			works()
			for range 3 {
				if err := <-results; err != nil {
					t.Error(err)
				}
			}
			if last, err := log.LastIndex(); err != nil || last != begin+20 {
				t.Errorf("the log ends at %d (%v), want %d", last, err, begin+20)
			}
		})
	}
}
