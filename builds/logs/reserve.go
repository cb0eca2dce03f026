package logs

import (
	"fmt"
	"os"
	"syscall"

	"github.com/image-builder-ha/image-builder/faults"
)

// WithReserve returns a file system whose writes fail as on a full disk while they would leave less
// than reserve bytes on the disk of dir. Logs of builds can be copied to other nodes. The replicated
// log of the cluster, which may be on the same disk, cannot do without room.
func WithReserve(files FS, dir string, reserve uint64) FS {
	return reservedFS{files, func() (uint64, error) { return freeBytes(dir) }, reserve}
}

// SameDisk reports whether two directories are on the same file system. A directory that does not
// exist is on no file system.
func SameDisk(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	if err1 != nil || err2 != nil {
		return false
	}
	s, ok1 := x.Sys().(*syscall.Stat_t)
	t, ok2 := y.Sys().(*syscall.Stat_t)
	return ok1 && ok2 && s.Dev == t.Dev
}

type reservedFS struct {
	FS
	free    func() (uint64, error)
	reserve uint64
}

func (r reservedFS) OpenFile(name string, flag int, perm os.FileMode) (File, error) {
	f, err := r.FS.OpenFile(name, flag, perm)
	if err != nil {
		return nil, err
	}
	return reservedFile{f, r}, nil
}

type reservedFile struct {
	File
	fs reservedFS
}

// WriteAt writes p unless that takes from the reserve.
func (f reservedFile) WriteAt(p []byte, at int64) (int, error) {
	if free, err := f.fs.free(); err == nil && free < f.fs.reserve+uint64(len(p)) && !faults.Mutant("logs-take-the-reserve") {
		return 0, fmt.Errorf("the last %d MiB of the disk are for the replicated log: %w", f.fs.reserve>>20, syscall.ENOSPC)
	}
	return f.File.WriteAt(p, at)
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
