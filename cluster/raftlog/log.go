// Package raftlog is the replicated log of a node on its disk: raft-wal with guards. It refuses a
// damaged log, it continues after errors of the disk, and it reports the health of the disk.
//
// The package does not know the content of the entries, and it does not decide what a node does
// while its log cannot be written.
package raftlog

import (
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/image-builder-ha/image-builder/internal/inflight"
)

// Log is raft-wal with guards. raft-wal cuts its tail at the first frame that it cannot read. That
// is right for a torn write, but loses entries of a damaged disk. So every entry carries a
// checksum, which is verified at the start, and the file "written" holds the index of the last
// entry that was written. After an error raft-wal may refuse all further writes. So the log is
// opened again after each error, see reopen.go.
//
// Call Open, then Verify, then the methods of Raft's interfaces, and finally Close.
type Log struct {
	dir          string
	fresh        bool
	files        *walFiles
	segmentBytes int
	mark         MarkFile
	// free returns how many bytes the disk has left; nil if that is unknown.
	free func() (uint64, error)

	// writes is full during each change of the log; capacity 1. The change may wait for a disk that
	// hangs. A mutex would then stop the simulated time of a test, which counts only waits for
	// channels (testing/synctest).
	writes chan struct{}
	wal    shared
	// end is the index of the last entry that was acknowledged, under writes.
	end uint64
	// cut is the index of the last entry that the last change has removed from the end of the log;
	// 0 if entries were stored since. Under writes.
	cut uint64
	// broken is the reason why the log must be opened again before the next change.
	broken atomic.Pointer[error]
	// failed receives after a change has failed or was refused; capacity 1.
	failed chan struct{}

	// ops are the changes of the log, of the term and of the vote that are in progress, and those
	// that wait for another change.
	ops inflight.Ops
	// latency is a moving average of the time that a write takes, in nanoseconds.
	latency atomic.Int64
	// lastErr is the error of the last write.
	lastErr atomic.Pointer[error]
	closing sync.Once
}

var (
	_ raft.LogStore          = (*Log)(nil)
	_ raft.StableStore       = (*Log)(nil)
	_ raft.MonotonicLogStore = (*Log)(nil)
)

// IsMonotonic returns true: raft-wal allows no gaps in the log.
func (s *Log) IsMonotonic() bool { return true }

// change begins a change of the log once the change in progress has ended, and raft-wal has begun
// the next segment if the last one is full. The returned function ends the change.
func (s *Log) change() (done func()) {
	end := s.ops.Begin() // before the wait, which is for the disk
	s.writes <- struct{}{}
	s.files.rotation.wait()
	return func() {
		<-s.writes
		end()
	}
}
