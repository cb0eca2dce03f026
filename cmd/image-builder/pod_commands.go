package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/config"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/worker"
)

// newWorkerCommand is what the worker container of a build's pod runs.
func newWorkerCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "worker --job FILE", Short: "Do one build: what runs in a build's pod", Args: cobra.NoArgs,
		Long: `Does one build and tells of it by HTTPS until a node knows all. The runtime kubernetes starts it in each pod.

Exit status: 0 the build succeeded, 1 it failed, 2 the job cannot be read, 3 it could not be done.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			job, err := podapi.ReadJob(file)
			if err != nil {
				return cli.ExitWith(cli.ExitUsage, err)
			}
			return inPod(cmd.Context(), func(ctx context.Context) error {
				err := worker.Run(ctx, job, config.LogConfig{Format: "json", Level: "info"}.Logger(os.Stderr))
				if errors.Is(err, worker.ErrFailed) {
					return cli.ExitWith(cli.ExitFailed, err)
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&file, "job", "", "file that says what to do")
	return cmd
}

// newRegistryProxyCommand is what the proxy container of a build's pod runs.
func newRegistryProxyCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "registry-proxy --config FILE", Short: "Reach registries for one build: what runs in a build's pod", Args: cobra.NoArgs,
		Long: `Serves one build at loopback what it may do with registries, and holds the credentials for it. The runtime kubernetes starts it in each pod.

Exit status: 0 stopped on request, 2 the file cannot be read, 3 it could not serve.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := proxy.ReadConfig(file); err != nil {
				return cli.ExitWith(cli.ExitUsage, err)
			}
			return inPod(cmd.Context(), func(ctx context.Context) error {
				return proxy.RunFile(ctx, file, config.LogConfig{Format: "json", Level: "info"}.Logger(os.Stderr))
			})
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "file that says what to grant")
	return cmd
}

// inPod runs f until its pod is told to end.
func inPod(ctx context.Context, f func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := f(ctx)
	if _, _, known := cli.ExitStatus(err); known || err == nil {
		return err
	}
	return cli.ExitWith(cli.ExitUnavailable, err)
}
