package disktest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Loop is an ext4 file system on a loop device. A copy of its image has the content of a disk after
// a power loss: everything that was synced, and any other data that the kernel has written back.
type Loop struct {
	t     *testing.T
	image string
	// Dir is where the file system is mounted.
	Dir string
}

// NewLoop makes a file system of size bytes. It needs root.
func NewLoop(t *testing.T, size int64) *Loop {
	t.Helper()
	d := &Loop{t: t, image: filepath.Join(t.TempDir(), "image")}
	f, err := os.Create(d.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	d.Run("mkfs.ext4", "-q", "-F", d.image)
	d.mount()
	return d
}

// Run runs a program, which must succeed.
func (d *Loop) Run(name string, args ...string) {
	d.t.Helper()
	if out, err := exec.CommandContext(d.t.Context(), name, args...).CombinedOutput(); err != nil {
		d.t.Fatalf("%s (needs root): %v: %s", name, err, out)
	}
}

// mount mounts the image. The kernel writes nothing back by itself during a test: a copy during a
// write-back would mix the contents of several moments.
func (d *Loop) mount() {
	d.t.Helper()
	d.Dir = d.t.TempDir()
	d.Run("mount", "-o", "loop,commit=300", d.image, d.Dir)
	dir := d.Dir
	d.t.Cleanup(func() {
		if out, err := exec.Command("umount", "-l", dir).CombinedOutput(); err != nil {
			d.t.Errorf("umount: %v: %s", err, out)
		}
	})
}

// PowerLoss returns the disk as it is without the processes that use it now.
func (d *Loop) PowerLoss(t *testing.T) *Loop {
	t.Helper()
	after := &Loop{t: t, image: filepath.Join(t.TempDir(), "image")}
	d.Run("cp", "--sparse=always", d.image, after.image)
	after.mount()
	return after
}
