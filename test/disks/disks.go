// Package disks gives a test small disks of its own: ext4 file systems in files, on loop devices. A
// disk can be full to the last byte, it can hang, and it can lose power. The package needs root.
package disks

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Block is the size of a block of a disk, in bytes: the smallest amount by which it can be filled.
const Block = 4096

// Disk is a file system that is mounted at Path.
type Disk struct {
	t      testing.TB
	Path   string
	image  string   // the file with its content
	images int      // how many there were
	fill   *os.File // takes the space that others must not have
	frozen *freeze  // nil while the disk works
}

// freeze is the time in which a disk hangs.
type freeze struct {
	dir   *os.File
	guard *exec.Cmd
	alive io.Closer
}

func (d *Disk) run(args ...string) {
	d.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s (needs root and loop devices): %v: %s", strings.Join(args, " "), err, out)
	}
}

// Free returns the number of bytes that a process can still write.
func (d *Disk) Free() int64 {
	d.t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.Path, &st); err != nil {
		d.t.Fatal(err)
	}
	return int64(st.Bavail) * st.Bsize
}

// Fill takes the space of the disk, or gives it back, so that about free bytes are left.
func (d *Disk) Fill(free int64) error {
	f, err := d.filler()
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	take := (d.Free() - free) / Block * Block
	if take > 0 {
		return unix.Fallocate(int(f.Fd()), 0, size, take)
	}
	return f.Truncate(max(0, size+take))
}

// FillBlock takes one block more. It returns an error that wraps syscall.ENOSPC if the disk is full.
func (d *Disk) FillBlock() error {
	f, err := d.filler()
	if err != nil {
		return err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	return unix.Fallocate(int(f.Fd()), 0, size, Block)
}

func (d *Disk) filler() (f *os.File, err error) {
	if d.fill == nil {
		d.fill, err = os.Create(filepath.Join(d.Path, "filler"))
	}
	return d.fill, err
}

// Release gives back the space that Fill and FillBlock took.
func (d *Disk) Release() {
	d.t.Helper()
	if d.fill == nil {
		return
	}
	if err := d.fill.Truncate(0); err != nil {
		d.t.Error(err)
	}
	d.release()
}

func (d *Disk) release() {
	if d.fill != nil {
		_ = d.fill.Close()
		d.fill = nil
	}
}

// idle reports whether no writes of the stopped file system are in flight.
func (d *Disk) idle() bool {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		d.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[1] == d.Path {
			raw, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(f[0]), "inflight"))
			if err != nil {
				d.t.Fatal(err)
			}
			return strings.Join(strings.Fields(string(raw)), " ") == "0 0"
		}
	}
	d.t.Fatalf("%s is not mounted", d.Path)
	return false
}
