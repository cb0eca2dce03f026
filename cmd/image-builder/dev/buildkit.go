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

// buildkitHost is the environment variable that names a daemon to buildctl and to dev.
const buildkitHost = "BUILDKIT_HOST"

// pingTimeout bounds the check of a named daemon.
const pingTimeout = 10 * time.Second

// buildkitDaemon is the BuildKit daemon of the nodes.
type buildkitDaemon struct {
	address string           // empty if there is no daemon
	own     *buildkit.Daemon // the daemon that dev started, else nil
	example bool             // the directory to build exists
}

// openBuildKit returns the daemon that the environment names, or starts one if it can, and prints
// which, or why there is none. A named daemon that is unreachable is an error.
func openBuildKit(ctx context.Context, dir string, o options, out io.Writer) (b buildkitDaemon, err error) {
	_, err = os.Stat(o.example)
	b.example = err == nil
	if b.address = os.Getenv(buildkitHost); b.address != "" {
		if !strings.HasPrefix(b.address, "unix://") && !strings.HasPrefix(b.address, "tcp://") {
			return b, cli.ExitWith(cli.ExitUsage, fmt.Errorf("%s is %q: dev needs a daemon at unix://PATH or tcp://HOST:PORT; unset the variable, and dev starts a daemon", buildkitHost, b.address))
		}
		ctx, cancel := context.WithTimeout(ctx, pingTimeout)
		defer cancel()
		if err := buildkit.Ping(ctx, b.address); err != nil {
			return b, cli.ExitWith(cli.ExitUnavailable, fmt.Errorf("the BuildKit daemon %s of %s does not respond: %w; start it, or unset %[2]s, and dev starts a daemon", b.address, buildkitHost, err))
		}
		fmt.Fprintf(out, "buildkit  %s  (of %s; dev does not stop it)\n", b.address, buildkitHost)
		b.noteExample(o, out)
		return b, nil
	}
	missing := ""
	program, err := exec.LookPath(o.buildkitd)
	switch {
	case err != nil:
		missing = fmt.Sprintf("there is no program %s (make buildkitd compiles it)", o.buildkitd)
	case os.Getuid() != 0:
		missing = "only root can start a daemon"
	}
	if missing != "" {
		fmt.Fprintf(out, "buildkit  none: %s, and %s is not set. Dockerfiles are refused; a copy of the base image is built instead of %s\n", missing, buildkitHost, o.example)
		return b, nil
	}
	logs := config.Log{Format: "text", Level: "warn"}
	if o.verbose {
		logs.Level = "debug"
	}
	b.own, err = buildkit.StartDaemon(ctx, buildkit.DaemonOptions{Binary: program, Root: filepath.Join(dir, "buildkit"), Logger: logs.Logger(os.Stderr)})
	if err != nil {
		return b, cli.ExitWith(cli.ExitUnavailable, err)
	}
	b.address = b.own.Addr()
	fmt.Fprintf(out, "buildkit  %s\n", b.address)
	b.noteExample(o, out)
	return b, nil
}

// noteExample prints a note if the directory to build does not exist.
func (b buildkitDaemon) noteExample(o options, out io.Writer) {
	if !b.example {
		fmt.Fprintf(out, "          there is no directory %s: a copy of the base image is built instead\n", o.example)
	}
}

// close stops the daemon if dev started it.
func (b buildkitDaemon) close() error {
	if b.own == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return b.own.Stop(ctx)
}
