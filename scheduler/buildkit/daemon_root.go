package buildkit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lockRoot creates the folder and locks it for this process. Closing the file releases the lock.
func lockRoot(root string) (*os.File, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make its folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock its folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // nothing was written
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another daemon uses %s: stop it or choose another folder", root)
		}
		return nil, fmt.Errorf("lock its folder: %w", err)
	}
	return f, nil
}

// unmountUnder unmounts everything below root, in reverse order of mounting.
func unmountUnder(root string) error {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list the mounts in %s: %w", root, err)
	}
	var errs []error
	mounts := strings.Split(strings.TrimSpace(string(info)), "\n")
	for i := len(mounts) - 1; i >= 0; i-- {
		fields := strings.Fields(mounts[i])
		if len(fields) < 5 {
			continue
		}
		at := unescape.Replace(fields[4])
		if !strings.HasPrefix(at, root+"/") {
			continue
		}
		if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", at, err))
		}
	}
	return errors.Join(errs...)
}

// unescape decodes a path as the kernel writes it in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// cgroupOf returns the name of the control group that holds the containers of a daemon.
func cgroupOf(root string) string {
	sum := sha256.Sum256([]byte(root))
	return "image-builder-" + hex.EncodeToString(sum[:6])
}

// removeCgroups removes the control group of a daemon that has ended, and those below it, in all
// hierarchies. A killed daemon leaves them behind. It repeats while the kernel reports EBUSY,
// because the last processes in them take a moment to go.
func removeCgroups(ctx context.Context, name string) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := removeCgroupsOnce(name)
		if !errors.Is(err, syscall.EBUSY) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func removeCgroupsOnce(name string) error {
	var dirs []string
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		tops, err := filepath.Glob(pattern + name)
		if err != nil {
			return fmt.Errorf("list the control groups: %w", err)
		}
		for _, top := range tops {
			err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, path)
				}
				return err
			})
			if err != nil {
				return fmt.Errorf("list the control groups: %w", err)
			}
		}
	}
	for _, dir := range slices.Backward(dirs) { // children before parents
		if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("remove the control group %s: %w", dir, err)
		}
	}
	return nil
}

// childOf returns the only child of a process, and false if there is none.
func childOf(pid int) (int, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, false
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	return child, err == nil
}
