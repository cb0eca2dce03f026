// Package buildkittest runs a node with a real BuildKit daemon for Dockerfile builds. The daemon is
// bin/buildkitd, which `make buildkitd` compiles.
package buildkittest

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// StartDaemon starts a daemon with its data below root. It stops when the test
// ends.
func StartDaemon(t testing.TB, root string) *buildkit.Daemon {
	t.Helper()
	d, err := buildkit.StartDaemon(t.Context(), buildkit.DaemonOptions{
		Binary: testkit.File("bin/buildkitd"), Root: root, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatalf("start BuildKit (make buildkitd): %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := d.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return d
}

// Node is a node with a registry, a daemon and a base image.
type Node struct {
	*harness.Node
	Registry *registrytest.Registry
	Daemon   *buildkit.Daemon
	// Base is the reference of the base image, a busybox.
	Base string
	// Root is the daemon's folder.
	Root string
}

// Start runs a node with a registry and a daemon of its own. over is merged over
// the node's configuration.
func Start(t testing.TB, over harness.Config) *Node {
	t.Helper()
	return StartAt(t, t.TempDir(), over)
}

// StartAt is Start with the daemon's data below root.
func StartAt(t testing.TB, root string, over harness.Config) *Node {
	t.Helper()
	n := &Node{Registry: registrytest.Start(t, registrytest.Options{}), Root: root}
	n.Registry.Push(t, "library/busybox:1", registrytest.BusyboxImage(t, "cat", "sleep", "echo", "seq", "dd", "wc", "ls", "false", "grep", "head", "yes"))
	n.Base = n.Registry.Addr + "/library/busybox:1"
	n.Daemon = StartDaemon(t, n.Root)
	conf := harness.Config{"buildkit": map[string]any{"addresses": []string{n.Daemon.Addr()}}}
	maps.Copy(conf, over)
	n.Node = harness.Start(t, n.Registry.Addr, conf)
	return n
}

// Context makes a build context with a Dockerfile and other files, by their path,
// and returns its folder. FROM base stands for the base image.
func (n *Node) Context(t testing.TB, dockerfile string, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{"Dockerfile": strings.ReplaceAll(dockerfile, "FROM base", "FROM "+n.Base)}
	maps.Copy(all, files)
	for name, text := range all {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
