//go:build faults

package raftlog

import (
	"os"
	"syscall"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"

	"github.com/image-builder-ha/image-builder/faults"
)

// walFS is the file system under the replicated log. A test can make its writes torn.
func walFS() types.VFS { return tornFS{durableFS{fs.New()}} }

type tornFS struct{ types.VFS }

// Create creates a file whose writes can be torn.
func (t tornFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := t.VFS.Create(dir, name, size)
	return tornFile{f}, err
}

// OpenWriter opens a file whose writes can be torn.
func (t tornFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := t.VFS.OpenWriter(dir, name)
	return tornFile{f}, err
}

type tornFile struct{ types.WritableFile }

// WriteAt writes p. Under the fault DiskTorn it writes a part of p and kills the process, as a
// power loss does when the disk has stored only some of the pages.
func (f tornFile) WriteAt(p []byte, at int64) (int, error) {
	n, torn := faults.Torn(p)
	if !torn {
		return f.WritableFile.WriteAt(p, at)
	}
	_, _ = f.WritableFile.WriteAt(p[:n], at)
	_ = f.WritableFile.Sync()
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the process is dying: acknowledge nothing more
}
