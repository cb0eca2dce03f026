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

// roomy is how large the disk of a node's build logs may grow.
const roomy = 8 << 30

// disk is a file system of its own, in memory, under the build logs of a node.
type disk struct {
	t    testing.TB
	path string
}

// logDisk mounts one for a node that does not run. It survives its process.
func logDisk(t testing.TB, n *harness.Node) *disk {
	t.Helper()
	d := &disk{t: t, path: filepath.Join(n.Dir, "data", "logs")}
	if err := os.RemoveAll(d.path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", d.path, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", int64(roomy))); err != nil {
		t.Fatalf("mount a disk for logs (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(d.path, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return d
}

// fill leaves so many bytes of room.
func (d *disk) fill(room int64) {
	var err error
	for range 20 { // it grows while it is measured
		var st syscall.Statfs_t
		if err = syscall.Statfs(d.path, &st); err != nil {
			break
		}
		used := int64(st.Blocks-st.Bfree) * st.Bsize
		if err = d.size(max(used+room, st.Bsize)); !errors.Is(err, syscall.EINVAL) {
			break
		}
	}
	if err != nil {
		d.t.Errorf("fill %s: %v", d.path, err)
	}
}

// heal gives all the room back.
func (d *disk) heal() {
	if err := d.size(roomy); err != nil {
		d.t.Errorf("make room in %s: %v", d.path, err)
	}
}

func (d *disk) size(bytes int64) error {
	return syscall.Mount("tmpfs", d.path, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%d", bytes))
}
