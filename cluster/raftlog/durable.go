package raftlog

import (
	"github.com/hashicorp/raft-wal/types"

	"github.com/image-builder-ha/image-builder/cluster/datadir"
)

// durableFS is the file system of raft-wal with a correction. raft-wal syncs the directory of a
// segment only after it has created the segment itself. A process that dies before the first write
// to a new segment leaves a file that the next process opens and writes to, and whose entry in the
// directory a power loss can still remove.
type durableFS struct{ types.VFS }

// OpenWriter opens a file and makes its entry in the directory durable.
func (d durableFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := d.VFS.OpenWriter(dir, name)
	if err != nil {
		return nil, err
	}
	if err := datadir.Sync(dir); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
