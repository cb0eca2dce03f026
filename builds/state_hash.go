package builds

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	clusterv1 "github.com/image-builder-ha/image-builder/proto/cluster/v1"
)

// Every node hashes its state at the same points of the log, the checkpoints, so that the leader
// can find a node whose state differs. A checkpoint is the state before the first command whose
// index is in another block of checkpointCommands, or whose time is in another block of
// checkpointInterval, than those of the state. So it depends on the log alone.
const (
	// checkpointCommands is the number of indexes of a block.
	checkpointCommands = 256
	// checkpointInterval is the length of a block of time, so that few commands do not delay the
	// next checkpoint for long.
	checkpointInterval = time.Minute
	// keptCheckpoints is how many checkpoints a state keeps. The leader compares those that two
	// nodes have, even if one of them is a few seconds behind.
	keptCheckpoints = 32
)

const (
	// hashFormat is the version of the way in which this file and table.go hash a state.
	hashFormat = 1
	// protobufVersion is the version of the protobuf module. Its deterministic encoding may differ
	// between versions. A test compares it with go.mod.
	protobufVersion = "v1.36.12"
)

// hashVersion names everything that determines the hash of a state with a feature level. Below a
// level the state has no fields of the level, so that nodes of different versions have equal
// states.
func hashVersion(level uint32) string {
	return fmt.Sprintf("%d/%d/%s", hashFormat, level, protobufVersion)
}

// track begins to hash the state. It reads the whole state.
func (s *State) track() {
	s.hash = new(stateHash)
	h := &s.hash.recordHasher
	s.builds.track(h)
	s.requests.track(h)
	s.cached.track(h)
	s.nodes.track(h)
}

// checkpoint records a checkpoint if the next command, with that index and time, is beyond one.
// Call it before the command changes the state.
func (s *State) checkpoint(index uint64, timeNanos int64) {
	if s.hash == nil || s.index == 0 {
		return
	}
	block := func(t int64) int64 { return t / int64(checkpointInterval) }
	if index/checkpointCommands == s.index/checkpointCommands && block(max(s.time, timeNanos)) == block(s.time) {
		return
	}
	h := s.hash
	if h.skip {
		h.skip = false
		return
	}
	if len(h.kept) == keptCheckpoints {
		h.kept = slices.Delete(h.kept, 0, 1)
	}
	h.kept = append(h.kept, &clusterv1.Checkpoint{Version: hashVersion(s.level), Index: s.index, Hash: s.sum()})
}

// sum returns the hash of the state. It covers the tables from which all others derive.
func (s *State) sum() uint64 {
	h := &s.hash.recordHasher
	sums := s.tableSums()
	h.buf = h.buf[:0]
	for _, n := range sums {
		h.buf = binary.BigEndian.AppendUint64(h.buf, n)
	}
	return h.sum(s.header())
}

// tableSums are the sums of the hashes of all records: of builds, requests, cached references and
// nodes.
type tableSums [4]uint64

func (s *State) tableSums() tableSums {
	h := &s.hash.recordHasher
	return tableSums{s.builds.settle(h), s.requests.settle(h), s.cached.settle(h), s.nodes.settle(h)}
}
