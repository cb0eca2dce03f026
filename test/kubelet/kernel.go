//go:build kubernetes

package kubelet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cgroupPrefix is the prefix of the names of control groups. The process id follows.
const cgroupPrefix = "image-builder-kubelet-"

// cgroupRoots returns the root folders of the control group hierarchies.
func cgroupRoots() ([]string, error) {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return []string{root}, nil // version 2
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, err
	}
	var roots []string
	for _, e := range entries {
		if e.IsDir() { // links are other names of the same folders
			roots = append(roots, filepath.Join(root, e.Name()))
		}
	}
	return roots, nil
}

// makeCgroups makes a control group in all hierarchies.
func makeCgroups(name string) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	for _, r := range roots {
		if err := os.Mkdir(filepath.Join(r, name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make a control group: %w", err)
		}
		if filepath.Base(r) != "cpuset" {
			continue
		}
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} { // empty in a new control group
			raw, err := os.ReadFile(filepath.Join(r, f))
			if err == nil {
				err = os.WriteFile(filepath.Join(r, name, f), raw, 0o644)
			}
			if err != nil {
				return fmt.Errorf("make a control group: %w", err)
			}
		}
	}
	return nil
}

// removeCgroups removes control groups. It retries for ten seconds, until their processes have
// ended.
func removeCgroups(name string) error {
	roots, err := cgroupRoots()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var left []error
		for _, r := range roots {
			left = append(left, removeTree(filepath.Join(r, name)))
		}
		err := errors.Join(left...)
		if err == nil || time.Now().After(deadline) {
			return err
		}
		<-tick.C
	}
}

// removeTree removes the folders of a control group, the deepest first. Files of a control group
// cannot be removed.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// sweep removes control groups of test binaries that were killed.
func sweep() {
	roots, _ := cgroupRoots() // makeCgroups reports this error
	for _, r := range roots {
		entries, _ := os.ReadDir(r)
		for _, e := range entries {
			pid, err := strconv.Atoi(strings.TrimPrefix(e.Name(), cgroupPrefix))
			if strings.HasPrefix(e.Name(), cgroupPrefix) && err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
				_ = removeTree(filepath.Join(r, e.Name()))
			}
		}
	}
}

// sysctls are kernel settings that a kubelet changes for the whole machine (k8s.io/kubernetes,
// pkg/util/sysctl).
type sysctls map[string]string

func rememberSysctls() sysctls {
	s := sysctls{}
	for _, name := range []string{
		"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
	} {
		if raw, err := os.ReadFile("/proc/sys/" + name); err == nil {
			s[name] = string(raw)
		}
	}
	return s
}

// restore resets the settings that have changed.
func (s sysctls) restore() error {
	var errs []error
	for name, want := range s {
		if raw, err := os.ReadFile("/proc/sys/" + name); err == nil && string(raw) != want {
			errs = append(errs, os.WriteFile("/proc/sys/"+name, []byte(strings.TrimSpace(want)), 0o644))
		}
	}
	return errors.Join(errs...)
}
