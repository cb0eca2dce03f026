//go:build faults

package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/image-builder-ha/image-builder/test/harness"
)

// diskSize is the normal size of a disk, in bytes.
const diskSize = 8 << 30

// disk is a file system in memory that holds the build logs of a node.
type disk struct {
	t    testing.TB
	path string
}

// logDisk mounts a disk for a node that does not run, until the test ends.
func logDisk(t testing.TB, n *harness.Node) *disk {
	t.Helper()
	d := &disk{t: t, path: filepath.Join(n.Dir, "data", "logs")}
	if err := os.RemoveAll(d.path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", d.path, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", int64(diskSize))); err != nil {
		t.Fatalf("mount a disk for logs (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(d.path, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

// fill shrinks the disk, so that about free bytes are left.
func (d *disk) fill(free int64) {
	var err error
	for range 20 { // the node may write between the measurement and the change
		var st syscall.Statfs_t
		if err = syscall.Statfs(d.path, &st); err != nil {
			break
		}
		used := int64(st.Blocks-st.Bfree) * st.Bsize
		if err = d.size(max(used+free, st.Bsize)); !errors.Is(err, syscall.EINVAL) {
			break
		}
	}
	if err != nil {
		d.t.Errorf("fill %s: %v", d.path, err)
	}
}

// heal sets the normal size again.
func (d *disk) heal() {
	if err := d.size(diskSize); err != nil {
		d.t.Errorf("restore the size of %s: %v", d.path, err)
	}
}

func (d *disk) size(bytes int64) error {
	return syscall.Mount("tmpfs", d.path, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", bytes))
}
