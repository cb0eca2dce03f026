// Package disks gives a test small disks of its own: ext4 file systems in files, on loop devices. A
// disk can be full to the last byte, it can hang, and it can lose power. The package needs root.
package disks

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/image-builder-ha/image-builder/test/testkit"
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

func (d *Disk) run(args ...string) {
	d.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s (needs root and loop devices): %v: %s", strings.Join(args, " "), err, out)
	}
}

func (d *Disk) mount() {
	d.t.Helper()
	d.run("mount", "-o", "loop,commit=1", d.image, d.Path)
}

// unmount ends the mount also while processes use the disk.
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

// Cut takes the power from the disk and from the processes that use it: what was not fsynced is lost,
// except for some parts that happen to be on the disk already. The processes are stopped. Once they
// have been killed, Restore brings the disk back.
//
// A file system may write any unsynced page at any time, in any order. Cut therefore writes the pages
// of a random half of the files, and in half of the cases also the journal of the file system. The
// processes are stopped before, because a call of fsync that waits while the file system is stopped
// can return success.
func (d *Disk) Cut(pids ...int) {
	d.t.Helper()
	dir, err := os.Open(d.Path)
	if err != nil {
		d.t.Fatal(err)
	}
	defer dir.Close()
	_ = filepath.WalkDir(d.Path, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && rand.IntN(2) == 0 {
			writePages(path)
		}
		return nil // files come and go
	})
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			d.t.Fatal(err)
		}
	}
	for _, pid := range pids {
		testkit.Eventually(d.t, time.Minute, "the process is stopped", func() bool { return stopped(pid) })
	}
	const shutdown, withJournal, withoutJournal = 0x8004587d, 1, 2 // EXT4_IOC_SHUTDOWN and its flags
	if err := unix.IoctlSetPointerInt(int(dir.Fd()), shutdown, withJournal+rand.IntN(withoutJournal)); err != nil {
		d.t.Fatalf("stop the file system of %s: %v", d.Path, err)
	}
}

// stopped reports whether no thread of a process runs. A thread that waits for the disk (D) stops
// before the call of the process returns.
func stopped(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, path := range threads {
		raw, readErr := os.ReadFile(path)
		if readErr != nil {
			continue // the thread has ended
		}
		state, _, _ := bytes.Cut(raw[bytes.LastIndexByte(raw, ')')+2:], []byte(" "))
		if !bytes.ContainsAny(state, "TD") {
			return false
		}
	}
	return err == nil
}

// writePages writes the dirty pages of a file to the disk, without a sync of its size.
func writePages(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
}

// Restore brings back a disk after Cut, as a copy: other processes on this machine may have mount
// namespaces with the file system that was stopped. No process may use the disk.
func (d *Disk) Restore() {
	d.t.Helper()
	testkit.Eventually(d.t, time.Minute, "the device has written everything", d.idle)
	d.images++
	old, next := d.image, filepath.Join(filepath.Dir(d.Path), fmt.Sprint("image-", d.images))
	d.copyTo(next)
	d.unmount()
	if err := os.Remove(old); err != nil {
		d.t.Error(err)
	}
	d.image = next
	d.mount() // replays the journal
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
