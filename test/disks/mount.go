package disks

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// New makes an empty disk with the given size and mounts it at a new directory, until the test ends.
func New(t testing.TB, bytes int64) *Disk {
	t.Helper()
	return NewAt(t, bytes, "")
}

// NewAt is New with the directory at which the disk is mounted. It makes the directory.
func NewAt(t testing.TB, bytes int64, path string) *Disk {
	t.Helper()
	d := newDisk(t, path)
	f, err := os.Create(d.image)
	if err == nil {
		err = errors.Join(f.Truncate(bytes), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	d.run("mkfs.ext4", "-q", "-F", "-m", "0", "-b", strconv.Itoa(Block), "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", d.image)
	d.mount()
	return d
}

// newDisk returns a disk that is not mounted yet. If path is empty, it has a new directory.
func newDisk(t testing.TB, path string) *Disk {
	t.Helper()
	dir := t.TempDir()
	if path == "" {
		path = filepath.Join(dir, "disk")
	}
	d := &Disk{t: t, Path: path, image: filepath.Join(dir, "image")}
	if err := os.MkdirAll(d.Path, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.unmount)
	return d
}

// Copy returns a copy of a disk to which nothing is written meanwhile.
func (d *Disk) Copy(t testing.TB) *Disk {
	t.Helper()
	dir, err := os.Open(d.Path)
	if err == nil {
		err = errors.Join(unix.Syncfs(int(dir.Fd())), dir.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	c := newDisk(t, "")
	d.copyTo(c.image)
	c.mount()
	return c
}

func (d *Disk) copyTo(image string) {
	d.t.Helper()
	d.run("cp", "--sparse=always", "--reflink=auto", d.image, image)
}

func (d *Disk) mount() {
	d.t.Helper()
	d.run("mount", "-o", "loop,commit=1", d.image, d.Path)
}

// unmount ends the mount even while processes use the disk.
func (d *Disk) unmount() {
	d.t.Helper()
	d.Thaw()
	d.release()
	if err := syscall.Unmount(d.Path, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
		d.t.Errorf("unmount %s: %v", d.Path, err)
	}
}

// Remove unmounts the disk before the end of the test, and deletes its content.
func (d *Disk) Remove() {
	d.t.Helper()
	d.unmount()
	if err := os.Remove(d.image); err != nil {
		d.t.Error(err)
	}
}
