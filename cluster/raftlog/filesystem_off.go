//go:build !faults

package raftlog

import (
	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// walFS is the file system under the replicated log.
func walFS() types.VFS { return durableFS{fs.New()} }
