// Package dev is the command `dev`: a trial installation on one machine. It starts a registry,
// BuildKit and nodes as processes of their own, builds an image, and restarts nodes that end. It is
// not for production: the registry has no login, and all ports are on loopback by default.
package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
)

// Command returns the command `dev`.
func Command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run three nodes with a registry on loopback, and build an image",
		Long: `Runs a complete installation on one machine: a registry that keeps its images, three nodes
that form a cluster with keys and certificates of their own, a small base image (no network is
needed), and two builds. BuildKit is the daemon that BUILDKIT_HOST names (unix or plain tcp; it
must reach the address of the registry), or as root a daemon that dev starts. Then dev serves
until Ctrl-C, and restarts nodes that you kill. All data is kept in --data-dir; delete it to
start again from nothing. The second node has the next port of each address (metrics, health and
pprof: ten ports further), and so on.

Exit status: 0 success, 1 the build failed, 2 wrong usage, 3 a part could not be started,
130 interrupted before dev served.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			err := serve(ctx, o, cmd.OutOrStdout())
			if err != nil && ctx.Err() != nil { // err is a consequence of the interruption
				return cli.ExitWith(cli.ExitInterrupted, errors.New("interrupted; all started processes are stopped, the data is kept"))
			}
			return err
		},
	}
	o.register(cmd)
	return cmd
}

// serve starts all parts, builds, and serves until ctx ends. It stops all parts before it returns.
func serve(ctx context.Context, o options, out io.Writer) (err error) {
	dir, err := filepath.Abs(o.dataDir)
	if err != nil {
		return fmt.Errorf("find the data directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create the data directory: %w", err)
	}
	if o.nodes < 1 || o.nodes == 2 {
		return cli.ExitWith(cli.ExitUsage, fmt.Errorf("--nodes %d: use 1, or 3 and more: two nodes stop when one of them fails", o.nodes))
	}
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	if err := checkFree("--registry-address", o.registryAddress); err != nil {
		return err
	}
	nodes, err := newNodes(dir, o)
	if err != nil {
		return err
	}
	registry, err := startRegistry(ctx, dir, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.stop()) }()
	fmt.Fprintf(out, "registry  http://%s  (pid %d, images in %s)\n", o.registryAddress, registry.pid(), filepath.Join(dir, "registry"))
	base, err := pushBase(ctx, o.registryAddress)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "base      %s  (made from this machine's busybox)\n", base)
	bk, err := openBuildKit(ctx, dir, o, out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bk.close()) }()
	if err := writeConfigs(dir, nodes, bk.address, o); err != nil {
		return err
	}
	if err := startNodes(ctx, nodes, o); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stopNodes(nodes)) }()
	printNodes(out, dir, nodes)
	if err := runBuilds(ctx, o, base, bk.address != "" && bk.example, out); err != nil {
		return err
	}
	if o.exit {
		return nil
	}
	printHints(out, nodes, base)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-registry.done:
			cancel(fmt.Errorf("the registry has ended unexpectedly: %w; its log is %s", registry.err, registry.log))
		case <-ctx.Done():
		}
	}()
	if err := restartNodes(ctx, nodes, o, out); err != nil {
		return err
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	fmt.Fprintln(out, "\nstopping; the data is kept in", dir)
	return nil
}

// printHints prints commands to try.
func printHints(out io.Writer, nodes []*devNode, base string) {
	first, effect := nodes[0], "it is restarted and has lost nothing"
	if len(nodes) > 1 {
		effect = "or another node: the others continue within a second, no build is lost, and it is restarted"
	}
	fmt.Fprintf(out, `
It serves until Ctrl-C. Web page: http://%s/ui/
Try, in another terminal:
  bin/image-builder list
  bin/image-builder build --ref %s --force
  bin/image-builder logs -f ID
  bin/image-builder cluster status --server unix://%s/operator.sock
  kill -9 %d   (%s; %s)
  curl -s http://%s/metrics | grep gitpod_
`, first.http, base, first.dir, first.pid(), first.name, effect, first.metrics)
}

// lock prevents a second dev from using the data directory. unlock releases it.
func lock(dir string) (unlock func(), err error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, cli.ExitWith(cli.ExitUnavailable, fmt.Errorf("%s is used by another 'make run' or 'image-builder dev': stop it, or choose another --data-dir and other addresses", dir))
	}
	return func() { _ = f.Close() }, nil
}
