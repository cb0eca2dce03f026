package raftlog

import (
	"sync"

	"github.com/hashicorp/raft-wal/types"
)

// rotation records whether raft-wal is about to begin the next segment after a full one. raft-wal
// does so in a goroutine of its own, which holds the lock that the next change of the log needs.
// Changes wait here instead: in simulated time, no goroutine may wait for a lock while a disk
// hangs.
type rotation struct {
	mu   sync.Mutex
	ends chan struct{} // closed when the rotation in progress has ended; nil if there is none
}

func (r *rotation) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ends == nil {
		r.ends = make(chan struct{})
	}
}

func (r *rotation) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ends != nil {
		close(r.ends)
		r.ends = nil
	}
}

// wait blocks until no rotation is in progress. The caller holds Log.writes, so that none begins.
func (r *rotation) wait() {
	r.mu.Lock()
	ends := r.ends
	r.mu.Unlock()
	if ends != nil {
		<-ends
	}
}

// rotatingFiler records the start and the end of rotations.
type rotatingFiler struct {
	types.SegmentFiler
	rotation *rotation
}

// Create creates the next segment, which is the last step of a rotation.
func (f rotatingFiler) Create(info types.SegmentInfo) (types.SegmentWriter, error) {
	defer f.rotation.end()
	w, err := f.SegmentFiler.Create(info)
	if err != nil {
		return nil, err
	}
	return rotatingWriter{w, f.rotation}, nil
}

func (f rotatingFiler) RecoverTail(info types.SegmentInfo) (types.SegmentWriter, error) {
	w, err := f.SegmentFiler.RecoverTail(info)
	if err != nil {
		return nil, err
	}
	return rotatingWriter{w, f.rotation}, nil
}

type rotatingWriter struct {
	types.SegmentWriter
	rotation *rotation
}

// Sealed reports whether the segment is full. raft-wal calls it after each write, and begins a
// rotation if the segment is full.
func (w rotatingWriter) Sealed() (full bool, indexStart uint64, err error) {
	full, indexStart, err = w.SegmentWriter.Sealed()
	if err == nil && full {
		w.rotation.begin()
	}
	return full, indexStart, err
}
