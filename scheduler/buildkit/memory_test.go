package buildkit_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/test/testkit"
)

// limited creates a control group with 64 MiB of memory, in cgroups version 1 or 2, and returns its
// file for process ids.
func limited(t *testing.T, name string) string {
	t.Helper()
	dir, limit := filepath.Join("/sys/fs/cgroup/memory", name), "memory.limit_in_bytes"
	if _, err := os.Stat(filepath.Dir(dir)); err != nil {
		dir, limit = filepath.Join("/sys/fs/cgroup", name), "memory.max"
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatalf("this test needs control groups: %v", err)
	}
	t.Cleanup(func() {
		testkit.Eventually(t, 5*time.Second, "the control group is removed", func() bool { return os.Remove(dir) == nil })
	})
	if err := os.WriteFile(filepath.Join(dir, limit), []byte(strconv.Itoa(64<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "cgroup.procs")
}

// Test_Run_OutOfMemory lets the kernel kill a step that uses more memory than its control group
// has.
func Test_Run_OutOfMemory(t *testing.T) {
	r := newRig(t)
	name := "out-of-memory-" + strconv.FormatInt(time.Now().UnixNano(), 10)
	procs := limited(t, name)
	dockerfile := "FROM " + r.base + "\nRUN until grep -q " + name + " /proc/self/cgroup; do sleep 0.05; done; awk 'BEGIN { s = \"x\"; while (1) s = s s }'\n"
	ctx, cancel := context.WithCancel(t.Context())
	var mover sync.WaitGroup
	mover.Go(func() {
		for tick := time.NewTicker(50 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			for _, pid := range processes(t, "until grep -q "+name) {
				_ = os.WriteFile(procs, []byte(pid), 0o600) // it may have ended
			}
		}
	})
	defer mover.Wait()
	defer cancel()
	t.Log(r.mustFail(t, r.upload(t, map[string]string{"Dockerfile": dockerfile}), quota, "build failed: Dockerfile:2", "exit code 137", "memory"))
}
