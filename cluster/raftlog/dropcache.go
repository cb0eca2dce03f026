package raftlog

import (
	"github.com/hashicorp/raft-wal/types"
	"golang.org/x/sys/unix"
)

// dropCache makes the next reads of a file return the content of the disk. The cache of the system
// may have pages that a failed sync of a former process left there, and that count as written. It
// is advice: an error changes nothing.
func dropCache(f types.WritableFile) {
	if d, ok := f.(interface{ Fd() uintptr }); ok {
		_ = unix.Fadvise(int(d.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
}
