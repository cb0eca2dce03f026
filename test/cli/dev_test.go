package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/harness/buildkittest"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// dev runs `dev --exit` with one node on free ports.
func dev(t *testing.T, dir, buildkitHost, buildkitd string) (stdout, stderr string, status int) {
	t.Helper()
	args := []string{"dev", "--exit", "--nodes", "1", "--data-dir", dir, "--example", testkit.File("examples/hello"), "--buildkitd", buildkitd}
	for _, flag := range []string{"--grpc-address", "--registry-address", "--metrics-address", "--health-address", "--pprof-address"} {
		args = append(args, flag, testkit.FreeAddr(t))
	}
	return harness.CLIWith(t, "", nil, []string{"BUILDKIT_HOST=" + buildkitHost}, args...)
}

// checkNothingLeft reports processes and mounts that still use a folder.
func checkNothingLeft(t *testing.T, dir string) {
	t.Helper()
	if left := testkit.Processes(t, dir); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), dir) {
		t.Errorf("a mount below %s is left (%v)", dir, err)
	}
}

// Test_Dev_Exit builds the example twice with a BuildKit daemon that dev starts. All steps of the
// second build come from the cache. Only the data is left.
func Test_Dev_Exit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	out, errOut, status := dev(t, dir, "", testkit.File("bin/buildkitd"))
	if status != 0 {
		t.Fatalf("status %d: %s %s", status, out, errOut)
	}
	first, second, found := strings.Cut(out, "again: every step comes from the cache")
	if !found || strings.Contains(first, "CACHED") || !strings.Contains(first, "Hello, world!") {
		t.Errorf("the first build: %s", first)
	}
	if strings.Count(second, "CACHED") < 4 || strings.Contains(second, "Hello, world!") {
		t.Errorf("the second build: %s", second)
	}
	if strings.Count(out, "the registry has it at") != 2 {
		t.Errorf("the images were not looked at: %s", out)
	}
	checkNothingLeft(t, dir)
}

// Test_Dev_BuildKitHost builds with the daemon that the environment names, and leaves it running.
// Without such a daemon dev says why.
func Test_Dev_BuildKitHost(t *testing.T) {
	d := buildkittest.StartDaemon(t, t.TempDir())
	dir := filepath.Join(t.TempDir(), "run")
	out, errOut, status := dev(t, dir, d.Addr(), "/nothing")
	if status != 0 || !strings.Contains(out, d.Addr()+"  (of BUILDKIT_HOST") || !strings.Contains(out, "CACHED") {
		t.Errorf("status %d: %s %s", status, out, errOut)
	}
	checkNothingLeft(t, dir)
	if err := buildkit.Ping(testkit.Context(t, 20*time.Second), d.Addr()); err != nil {
		t.Errorf("the daemon has ended: %v", err)
	}
	gone := "unix://" + filepath.Join(t.TempDir(), "gone.sock")
	if _, errOut, status = dev(t, dir, gone, testkit.File("bin/buildkitd")); status != 3 || !strings.Contains(errOut, gone) || !strings.Contains(errOut, "unset BUILDKIT_HOST") {
		t.Errorf("a daemon that is not there: %d %s", status, errOut)
	}
	if _, errOut, status = dev(t, dir, "docker-container://x", testkit.File("bin/buildkitd")); status != 2 || !strings.Contains(errOut, "unix://PATH") {
		t.Errorf("a daemon of another kind: %d %s", status, errOut)
	}
	if out, errOut, status = dev(t, dir, "", "/nothing"); status != 0 || !strings.Contains(out, "none: there is no program /nothing") || !strings.Contains(out, "the registry has it at") {
		t.Errorf("without any daemon: %d %s %s", status, out, errOut)
	}
	checkNothingLeft(t, dir)
}
