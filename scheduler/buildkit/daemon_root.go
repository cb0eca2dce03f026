package buildkit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// lockRoot makes the folder and locks it for this process.
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

// unmountUnder removes what is mounted in a folder, the last mounted first.
func unmountUnder(root string) error {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("look for mounts in %s: %w", root, err)
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

// unescape reads paths as the kernel writes them in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// childOf answers the only child of a process.
func childOf(pid int) (int, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, false
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	return child, err == nil
}
