//go:build faults

package chaos

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
)

// kit is the BuildKit daemon of all nodes. They reach it by its unix socket, which works from each
// network namespace.
type kit struct {
	t            testing.TB
	root, binary string
	d            *buildkit.Daemon
}

// newKit starts a daemon until the test ends. The daemon uses HTTP without TLS for one registry.
func newKit(t testing.TB, registry string) *kit {
	t.Helper()
	root, err := os.MkdirTemp("", "ibk") // a short path: it is part of the path of the socket
	if err != nil {
		t.Fatal(err)
	}
	k := &kit{t: t, root: root, binary: filepath.Join(t.TempDir(), "buildkitd")}
	binary, err := filepath.Abs("../../bin/buildkitd")
	if err != nil {
		t.Fatal(err)
	}
	// The second argument of the daemon is the path of its configuration.
	script := fmt.Sprintf("#!/bin/sh\nprintf '\\n[registry.\"%s\"]\\n  http = true\\n' >>\"$2\"\nexec %s \"$@\"\n", registry, binary)
	if err := os.WriteFile(k.binary, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		k.stop()
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	k.start()
	return k
}

// start starts a daemon. It retries, because a start may time out on a busy machine.
func (k *kit) start() {
	for try := 1; ; try++ {
		d, err := buildkit.StartDaemon(context.Background(), buildkit.DaemonOptions{
			Binary: k.binary, Root: k.root, Logger: slog.New(slog.DiscardHandler),
		})
		if err == nil {
			k.d = d
			return
		}
		if try == 10 {
			k.t.Fatalf("start BuildKit (make buildkitd): %v", err)
		}
		k.t.Logf("start BuildKit, will retry: %v", err)
	}
}

func (k *kit) stop() {
	if k.d == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := k.d.Stop(ctx); err != nil {
		k.t.Errorf("stop BuildKit: %v", err)
	}
	k.d = nil
}

// restart starts a new daemon with the same address and data.
func (k *kit) restart() {
	k.stop()
	k.start()
}

// signal sends a signal to the daemon, but not to its child processes.
func (k *kit) signal(sig syscall.Signal) {
	found := false
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline") // fails for a malformed pattern only
	for _, f := range all {
		raw, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(raw, []byte(k.d.Addr())) {
			continue
		}
		comm, err := os.ReadFile(filepath.Join(filepath.Dir(f), "comm"))
		if err != nil || strings.TrimSpace(string(comm)) != "buildkitd" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err == nil && syscall.Kill(pid, sig) == nil {
			found = true
		}
	}
	if !found {
		k.t.Errorf("send %s: no buildkitd runs at %s", sig, k.d.Addr())
	}
}
