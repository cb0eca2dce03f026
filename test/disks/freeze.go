package disks

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// Freeze makes the disk hang until Thaw, or until the test ends: changes of files and syncs of
// changed files do not return, and they return no error. Reads continue. A process with such a call
// does not end, not even by SIGKILL, before the disk works again.
func (d *Disk) Freeze() {
	d.t.Helper()
	if d.frozen != nil {
		return
	}
	dir, err := os.Open(d.Path)
	if err != nil {
		d.t.Fatal(err)
	}
	f := &freeze{dir: dir}
	if f.guard, f.alive, err = guard(d.Path); err != nil {
		_ = dir.Close()
		d.t.Fatal(err)
	}
	d.frozen = f
	if err := unix.IoctlSetInt(int(dir.Fd()), fifreeze, 0); err != nil {
		d.frozen = nil
		f.end()
		d.t.Fatalf("freeze %s: %v", d.Path, err)
	}
}

// Thaw ends Freeze. It does nothing if the disk works.
func (d *Disk) Thaw() {
	d.t.Helper()
	f := d.frozen
	if f == nil {
		return
	}
	d.frozen = nil
	if err := unix.IoctlSetInt(int(f.dir.Fd()), fithaw, 0); err != nil && !errors.Is(err, syscall.EINVAL) {
		d.t.Errorf("thaw %s: %v", d.Path, err)
	}
	f.end()
}

func (f *freeze) end() {
	_ = f.alive.Close()
	_ = f.guard.Wait() // fails because there is nothing left to thaw
	_ = f.dir.Close()
}

// The requests FIFREEZE and FITHAW of ioctl(2).
const fifreeze, fithaw = 0xc0045877, 0xc0045878

// guard starts a process that thaws a disk once alive is closed. That also happens if the process of
// the test is killed, after which nothing else could end the processes that wait for the disk.
func guard(path string) (cmd *exec.Cmd, alive io.Closer, err error) {
	cmd = exec.Command("sh", "-c", `read -r line; exec fsfreeze --unfreeze "$0"`, path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if alive, err = cmd.StdinPipe(); err != nil {
		return nil, nil, err
	}
	return cmd, alive, cmd.Start()
}
