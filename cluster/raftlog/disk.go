package raftlog

import (
	"io"

	"github.com/hashicorp/raft-wal/types"
)

// Disk holds the replicated log of one process of a node. Tests implement it to inject the faults
// of a disk; a node without one uses the files of its data directory.
type Disk interface {
	// VFS holds the segments of the log. It has a single directory and ignores the name of it.
	types.VFS
	// Meta holds the list of segments, and Raft's term and vote.
	Meta() types.MetaStore
	// OpenMark opens the file that holds the end of the log. With create it makes the file if there
	// is none.
	OpenMark(create bool) (MarkFile, error)
}

// MarkFile is the file that holds the end of the log.
type MarkFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// Sync makes all writes durable.
	Sync() error
}
