package buildkit_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
)

// shared is the daemon that most tests use: BuildKit isolates solves.
var shared struct {
	sync.Once
	daemon *buildkit.Daemon
	root   string
	err    error
}

func TestMain(m *testing.M) {
	if os.Getenv(clientEnv) != "" {
		runClient()
	}
	code := m.Run()
	if shared.daemon != nil {
		if err := shared.daemon.Stop(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "stop the shared daemon:", err)
			code = 1
		}
	}
	if shared.root != "" {
		_ = os.RemoveAll(shared.root)
	}
	os.Exit(code)
}

func sharedDaemon(t *testing.T) *buildkit.Daemon {
	t.Helper()
	shared.Do(func() {
		if shared.root, shared.err = os.MkdirTemp("", "buildkit-test-"); shared.err != nil {
			return
		}
		shared.daemon, shared.err = buildkit.StartDaemon(context.Background(), buildkit.DaemonOptions{
			Binary: buildkitd(t), Root: shared.root, Logger: slog.New(slog.DiscardHandler),
		})
	})
	if shared.err != nil {
		t.Fatalf("start the shared daemon: %v", shared.err)
	}
	return shared.daemon
}

// startDaemon starts a daemon that is stopped at the end of the test.
func startDaemon(t *testing.T) *buildkit.Daemon {
	t.Helper()
	d, err := buildkit.StartDaemon(t.Context(), buildkit.DaemonOptions{Binary: buildkitd(t), Root: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("start a daemon: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Stop(context.Background()); err != nil {
			t.Errorf("stop the daemon: %v", err)
		}
	})
	return d
}

func buildkitd(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../bin/buildkitd")
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		t.Fatalf("these tests need bin/buildkitd: go build -C tools/buildkit -o ../../bin/ github.com/moby/buildkit/cmd/buildkitd: %v", err)
	}
	return path
}

// processes returns the pids of the processes whose command line contains text.
func processes(t *testing.T, text string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []string
	for _, f := range files {
		// A process may end during the search.
		if line, err := os.ReadFile(f); err == nil && strings.Contains(strings.ReplaceAll(string(line), "\x00", " "), text) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}
