package dev

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/config"

	"github.com/image-builder-ha/image-builder/scheduler/buildkit"
)

// buildkitHost is the environment variable that names a daemon to buildctl,
// and to dev.
const buildkitHost = "BUILDKIT_HOST"

// devBuildKit is what dev builds Dockerfiles with.
type devBuildKit struct {
	address string           // "" if there is no daemon
	own     *buildkit.Daemon // nil if the daemon is somebody else's, or none
	example bool             // there is something to build with it
}

// openDevBuildKit takes the daemon that the environment names, or starts one,
// and says which, or why there is none. A daemon that is named and does not
// answer is an error: whoever named it wants that one.
func openDevBuildKit(ctx context.Context, dir string, o devOptions, out io.Writer) (b devBuildKit, err error) {
	_, err = os.Stat(o.example)
	b.example = err == nil
	if b.address = os.Getenv(buildkitHost); b.address != "" {
		if !strings.HasPrefix(b.address, "unix://") && !strings.HasPrefix(b.address, "tcp://") {
			return b, cli.ExitWith(cli.ExitUsage, fmt.Errorf("%s is %q: dev takes a daemon at unix://PATH or tcp://HOST:PORT; unset it, and dev starts one of its own", buildkitHost, b.address))
		}
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		if err := buildkit.Ping(ctx, b.address); err != nil {
			return b, cli.ExitWith(cli.ExitUnavailable, fmt.Errorf("the BuildKit daemon %s of %s does not answer: %w; start it, or unset %[2]s, and dev starts one of its own", b.address, buildkitHost, err))
		}
		fmt.Fprintf(out, "buildkit  %s  (of %s; it is left running)\n", b.address, buildkitHost)
		b.noteExample(o, out)
		return b, nil
	}
	without := ""
	program, err := exec.LookPath(o.buildkitd)
	switch {
	case err != nil:
		without = fmt.Sprintf("there is no program %s (make buildkitd compiles it)", o.buildkitd)
	case os.Getuid() != 0:
		without = "starting a daemon takes root"
	}
	if without != "" {
		fmt.Fprintf(out, "buildkit  none: %s, and %s names no daemon; Dockerfiles are refused, and a copy of the base image is built instead of %s\n", without, buildkitHost, o.example)
		return b, nil
	}
	level := config.LogConfig{Format: "text", Level: "warn"}
	if o.verbose {
		level.Level = "debug"
	}
	b.own, err = buildkit.StartDaemon(ctx, buildkit.DaemonOptions{Binary: program, Root: filepath.Join(dir, "buildkit"), Logger: level.Logger(os.Stderr)})
	if err != nil {
		return b, cli.ExitWith(cli.ExitUnavailable, err)
	}
	b.address = b.own.Addr()
	fmt.Fprintf(out, "buildkit  %s\n", b.address)
	b.noteExample(o, out)
	return b, nil
}

func (b devBuildKit) noteExample(o devOptions, out io.Writer) {
	if !b.example {
		fmt.Fprintf(out, "          there is no directory %s: a copy of the base image is built instead\n", o.example)
	}
}

// close stops a daemon of dev's own.
func (b devBuildKit) close() error {
	if b.own == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return b.own.Stop(ctx)
}
