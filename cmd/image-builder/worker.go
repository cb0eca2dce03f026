package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/config"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/podapi"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/worker"
)

// newWorkerCommand returns the command of the worker container of a build's pod.
func newWorkerCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "worker --job FILE", Short: "Execute one build in its pod", Args: cobra.NoArgs,
		Long: `Executes one build, and serves its progress and output over HTTPS until a node has all of it.
The runtime kubernetes starts this command in each pod.

Exit status: 0 the build succeeded, 1 it failed, 2 the job cannot be read, 3 it could not be executed.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			job, err := podapi.ReadJob(file)
			if err != nil {
				return cli.ExitWith(cli.ExitUsage, err)
			}
			return inPod(cmd.Context(), func(ctx context.Context) error {
				err := worker.Run(ctx, job, podLog.Logger(os.Stderr))
				if errors.Is(err, worker.ErrFailed) {
					return cli.ExitWith(cli.ExitFailed, err)
				}
				return err
			})
		},
	}
	cmd.Flags().StringVar(&file, "job", "", "file with the job")
	return cmd
}

// podLog is the log of the containers of a pod.
var podLog = config.Log{Format: "json", Level: "info"}

// inPod runs f with a context that ends when the pod is stopped.
func inPod(ctx context.Context, f func(context.Context) error) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := f(ctx)
	if _, _, known := cli.ExitStatus(err); known || err == nil {
		return err
	}
	return cli.ExitWith(cli.ExitUnavailable, err)
}
