package node

import (
	"os"
	"path/filepath"

	"github.com/image-builder-ha/image-builder/builds/logs"
)

// logReserveSegments is the number of files of the replicated log for which the logs of builds
// leave room, if both are on the same disk. With room for fewer than two the node refuses commands.
// The others are for the growth of the replicated log until its next snapshot, and for the
// snapshot.
const logReserveSegments = 4

// logFS returns the file system for the logs of builds. On the disk of the replicated log it has a
// reserve.
func (n *Node) logFS() logs.FS {
	files := n.parts.LogFS
	if n.parts.Storage != nil {
		return files // the replicated log is in memory
	}
	dir := filepath.Join(n.cfg.DataDir, "logs")
	if _, err := os.Stat(dir); err != nil {
		dir = n.cfg.DataDir // it will be created there
	}
	if !logs.SameDisk(dir, filepath.Join(n.cfg.DataDir, "raft")) {
		return files
	}
	if files == nil {
		files = logs.Disk()
	}
	return logs.WithReserve(files, dir, logReserveSegments*uint64(n.cfg.Raft.SegmentBytes))
}
