package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/image-builder-ha/image-builder/registry/registrytest"
	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
	"github.com/image-builder-ha/image-builder/test/harness"
	"github.com/image-builder-ha/image-builder/test/testkit"
)

// Benchmark_AgainstBuildctl runs the same builds with this service and with buildctl alone, on the
// same daemon and registry: one whose steps are all cached, and one that writes 100 MB of output.
func Benchmark_AgainstBuildctl(b *testing.B) {
	reg := registrytest.Start(b, registrytest.Options{})
	reg.Push(b, "library/busybox:1", registrytest.BusyboxImage(b, "yes", "head", "echo"))
	d, err := buildkit.StartDaemon(b.Context(), buildkit.DaemonOptions{Binary: testkit.File("bin/buildkitd"), Root: b.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = d.Stop(ctx)
	})
	n := harness.Start(b, reg.Addr, harness.Config{"buildkit": map[string]any{"addresses": []string{d.Addr()}}})
	base := "FROM " + reg.Addr + "/library/busybox:1\n"
	for _, c := range []struct {
		name, dockerfile string
		cached           bool
	}{
		{"cached", base + "RUN echo one\nRUN echo two\n", true},
		{"100MB-output", base + "RUN yes 0123456789012345678901234567890123456789012345678901234567890 | head -n 1600000\n", false},
	} {
		dir := b.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(c.dockerfile), 0o644); err != nil {
			b.Fatal(err)
		}
		run := func(program string, args ...string) {
			cmd := exec.Command(program, args...)
			cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
			if err := cmd.Run(); err != nil {
				b.Fatalf("%s: %v", program, err)
			}
		}
		ours := []string{"build", dir, "--force", "--server", n.GRPC}
		theirs := []string{
			"--addr", d.Addr(), "build", "--frontend", "dockerfile.v0", "--local", "context=" + dir, "--local", "dockerfile=" + dir,
			"--progress", "plain", "--output", fmt.Sprintf("type=image,name=%s/bench:1,push=true", reg.Addr),
		}
		if !c.cached {
			ours, theirs = append(ours, "--no-cache"), append(theirs, "--no-cache")
		}
		run(harness.Binary(b), ours...)
		run(testkit.File("bin/buildctl"), theirs...)
		b.Run(c.name+"/image-builder", func(b *testing.B) {
			for b.Loop() {
				run(harness.Binary(b), ours...)
			}
		})
		b.Run(c.name+"/buildctl", func(b *testing.B) {
			for b.Loop() {
				run(testkit.File("bin/buildctl"), theirs...)
			}
		})
	}
}
