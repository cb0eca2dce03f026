package logs

import (
	"os"

	"github.com/image-builder-ha/image-builder/internal/inflight"
)

// Watch returns a file system that records in ops the operations of fs which change files, while
// they are in progress. If fs is nil, it is that of the operating system.
func Watch(fs FS, ops *inflight.Ops) FS {
	if fs == nil {
		fs = Disk()
	}
	return watchedFS{fs, ops}
}

type watchedFS struct {
	FS
	ops *inflight.Ops
}

func (f watchedFS) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	defer f.ops.Begin()()
	file, err := f.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return watchedFile{file, f.ops}, nil
}

func (f watchedFS) Remove(name string) error {
	defer f.ops.Begin()()
	return f.FS.Remove(name)
}

func (f watchedFS) SyncDir(dir string) error {
	defer f.ops.Begin()()
	return f.FS.SyncDir(dir)
}

type watchedFile struct {
	File
	ops *inflight.Ops
}

func (f watchedFile) WriteAt(p []byte, at int64) (int, error) {
	defer f.ops.Begin()()
	return f.File.WriteAt(p, at)
}

func (f watchedFile) Sync() error {
	defer f.ops.Begin()()
	return f.File.Sync()
}

func (f watchedFile) Truncate(size int64) error {
	defer f.ops.Begin()()
	return f.File.Truncate(size)
}
