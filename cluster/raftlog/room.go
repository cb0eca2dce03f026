package raftlog

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/image-builder-ha/image-builder/faults"
)

// roomSegments is how many segments of the log must fit on the disk: with less room the node
// accepts no commands. The next segment needs one. The second leaves room for snapshots and for the
// vote.
const roomSegments = 2

// ErrNoRoom means that the disk of the data directory is too full to accept commands. The node
// accepts them again once there is room.
var ErrNoRoom = errors.New("the disk of the data directory is nearly full")

// room returns an error that wraps ErrNoRoom and syscall.ENOSPC if the disk has too little room for
// further commands.
func (s *Log) room() error { return s.fits(roomSegments) }

// fits returns the error of room unless that many segments fit on the disk.
func (s *Log) fits(segments uint64) error {
	if s.free == nil || faults.Mutant("writes-on-a-full-disk") {
		return nil
	}
	free, err := s.free()
	if need := roomSegments * uint64(s.segmentBytes); err == nil && free < segments*uint64(s.segmentBytes) {
		return fmt.Errorf("%w: it has %d MiB left, and the replicated log needs %d MiB, which are %d of its files. The node accepts commands again once there is room (%w)",
			ErrNoRoom, free>>20, need>>20, roomSegments, syscall.ENOSPC)
	}
	return nil
}

// Room returns how many bytes the disk has left, and how many it needs so that the node accepts
// commands. ok is false if that is unknown.
func (s *Log) Room() (free, need uint64, ok bool) {
	if s.free == nil {
		return 0, 0, false
	}
	free, err := s.free()
	return free, roomSegments * uint64(s.segmentBytes), err == nil
}

// freeBytes returns how many bytes the file system of dir has left for this process.
func freeBytes(dir string) (uint64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, err
	}
	unit := uint64(st.Frsize) // the unit of the counts; Bsize is the preferred size of a transfer
	if unit == 0 {
		unit = uint64(st.Bsize)
	}
	return st.Bavail * unit, nil
}

// metaBytes is how much of the database of terms and votes is allocated in advance.
const metaBytes = 64 << 10

// reserve allocates the beginning of a file, without a change of its content. Raft ends the process
// if it cannot store its term, and the database has holes that need room when they are written
// first. Without room, or on a file system that cannot do this, nothing changes.
func reserve(path string) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return
	}
	const keepSize = 1 // FALLOC_FL_KEEP_SIZE
	_ = syscall.Fallocate(int(f.Fd()), keepSize, 0, metaBytes)
	_ = f.Close()
}
