package disks

import (
	"bytes"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

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
