package cli

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

func Test_CLI_BuildListStatusLogsCancel(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	digest := reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<10))
	n := harness.Start(t, reg.Addr, nil)
	ref := reg.Addr + "/team/app:1"
	out, errOut, status := harness.CLI(t, n.GRPC, "build", "--ref", ref)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if last := lines[len(lines)-1]; status != 0 || last != reg.Addr+"/workspace-images@"+digest {
		t.Fatalf("status %d, last line %q, stderr %q", status, last, errOut)
	}
	if !strings.Contains(errOut, "succeeded after") || !strings.Contains(out, "mounted") {
		t.Errorf("stdout %q, stderr %q", out, errOut)
	}
	if out, errOut, status = harness.CLI(t, n.GRPC, "build", "--ref", ref); status != 0 || !strings.Contains(errOut, "the image exists") {
		t.Errorf("again: %d %q %q", status, out, errOut)
	}
	out, _, _ = harness.CLI(t, n.GRPC, "build", "--ref", ref, "--force", "--detach")
	id := strings.TrimSpace(out)
	if out, _, status = harness.CLI(t, n.GRPC, "status", id, "--wait"); status != 0 || !strings.Contains(out, "succeeded") || !strings.Contains(out, "attempt 1") {
		t.Errorf("status: %d %q", status, out)
	}
	if out, _, status = harness.CLI(t, n.GRPC, "list", "-o", "json"); status != 0 || strings.Count(out, `"baseRef"`) != 2 {
		t.Errorf("list: %d %s", status, out)
	}
	if out, _, status = harness.CLI(t, n.GRPC, "list", "--phase", "failed"); status != 0 || strings.Contains(out, id) {
		t.Errorf("list of failed: %d %q", status, out)
	}
	if out, _, status = harness.CLI(t, n.GRPC, "logs", "-f", id); status != 0 || !strings.Contains(out, "manifest") {
		t.Errorf("logs: %d %q", status, out)
	}
	if part, _, _ := harness.CLI(t, n.GRPC, "logs", id, "--attempt", "1", "--offset", "5"); len(part) != len(out)-5 {
		t.Errorf("logs from offset 5: %d bytes of %d", len(part), len(out))
	}
	if out, _, status = harness.CLI(t, n.GRPC, "cancel", id); status != 0 || !strings.Contains(out, "succeeded") {
		t.Errorf("cancel after the end: %d %q", status, out)
	}
	if out, _, status = harness.CLI(t, n.GRPC, "resolve", ref); status != 0 || strings.TrimSpace(out) != reg.Addr+"/team/app@"+digest {
		t.Errorf("resolve: %d %q", status, out)
	}
	socket := "unix://" + filepath.Join(n.Dir, "op.sock")
	if out, errOut, status = harness.CLI(t, socket, "cache", "add", "ubuntu:22.04", "--interval", "1h"); status != 0 {
		t.Errorf("cache add on the socket: %d %q %q", status, out, errOut)
	}
	if _, errOut, status = harness.CLI(t, n.GRPC, "cache", "remove", "ubuntu:22.04"); status != 2 || !strings.Contains(errOut, "unix socket") {
		t.Errorf("cache remove on the public port: %d %q", status, errOut)
	}
	if out, _, _ = harness.CLI(t, n.GRPC, "cache", "list"); !strings.Contains(out, "ubuntu:22.04") {
		t.Errorf("cache list: %q", out)
	}
	if out, errOut, status = harness.CLI(t, socket, "cancel", id, "--operator"); status != 0 {
		t.Errorf("operator cancel: %d %q %q", status, out, errOut)
	}
}

func Test_CLI_Statuses(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	n := harness.Start(t, reg.Addr, nil)
	for _, c := range []struct {
		server string
		args   []string
		status int
		text   string
	}{
		{n.GRPC, []string{"build"}, 2, "--ref"},
		{n.GRPC, []string{"build", "--nope"}, 2, "unknown flag"},
		{n.GRPC, []string{"nope"}, 2, "unknown command"},
		{n.GRPC, []string{"status"}, 2, "arg"},
		{n.GRPC, []string{"status", "none"}, 2, "build not found"},
		{n.GRPC, []string{"list", "-o", "xml"}, 2, "table, json or yaml"},
		{n.GRPC, []string{"list", "--phase", "nope"}, 2, "succeeded"},
		{n.GRPC, []string{"build", "--ref", "docker.io/Upper/x"}, 2, "Upper"},
		{n.GRPC, []string{"build", "--ref", reg.Addr + "/none:1"}, 2, "cannot resolve image"},
		{"127.0.0.1:1", []string{"list"}, 3, "--server"},
		{n.GRPC, []string{"build", "--ref", "127.0.0.1:1/x:1"}, 3, "registry cannot be asked"},
		{n.GRPC, []string{"run", "--config", "/nowhere.json"}, 2, "no such file"},
	} {
		out, errOut, status := harness.CLI(t, c.server, c.args...)
		if status != c.status || !strings.Contains(errOut, c.text) || strings.Contains(errOut, "rpc error") {
			t.Errorf("%v: status %d, want %d with %q: %q %q", c.args, status, c.status, c.text, out, errOut)
		}
	}
	for _, cmd := range []string{"build", "list", "status", "logs", "cancel", "resolve", "run", "dev", "config"} {
		if out, _, status := harness.CLI(t, n.GRPC, cmd, "--help"); status != 0 || !strings.Contains(out, "Exit status") {
			t.Errorf("%s --help: %d, does not describe the exit status", cmd, status)
		}
	}
}

// Test_CLI_FailedBuildAndCtrlC interrupts the command while the registry hangs in the middle of a
// copy. The deadline of the build ends it later.
func Test_CLI_FailedBuildAndCtrlC(t *testing.T) {
	reg := registrytest.Start(t, registrytest.Options{})
	reg.Push(t, "team/app:1", registrytest.RandomImage(t, 1, 1<<20))
	proxy := registrytest.NewProxy(t, reg)
	defer proxy.Hold(registrytest.Blobs)()
	to := registrytest.Start(t, registrytest.Options{})
	n := harness.Start(t, to.Addr, nil)
	ref := proxy.Addr + "/team/app:1"
	cmd := exec.Command(harness.Binary(t), "build", "--server", n.GRPC, "--ref", ref, "--requester", "alice", "--timeout", "8s")
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 20*time.Second, "the build runs", func() bool {
		out, _, _ := harness.CLI(t, n.GRPC, "list", "--phase", "running")
		return strings.Contains(out, "alice")
	})
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if cmd.ProcessState.ExitCode() != 130 || !strings.Contains(errOut.String(), "the build continues") || !strings.Contains(errOut.String(), "image-builder cancel") {
		t.Errorf("Ctrl-C: status %d, %q", cmd.ProcessState.ExitCode(), errOut.String())
	}
	_, out, status := harness.CLI(t, n.GRPC, "build", "--ref", ref)
	if status != 1 || !strings.Contains(out, "joined build") || !strings.Contains(out, "deadline") {
		t.Errorf("the build that was joined: status %d, %q", status, out)
	}
}
