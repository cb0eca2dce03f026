package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/scheduler/kubernetes/proxy"
)

// newRegistryProxyCommand returns the command of the proxy container of a build's pod.
func newRegistryProxyCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "registry-proxy --config FILE", Short: "Connect one build in its pod to registries", Args: cobra.NoArgs,
		Long: `Gives one build access to registries through a port on loopback. It has the credentials, and
allows only the requests that the build needs. The runtime kubernetes starts this command in
each pod.

Exit status: 0 stopped on request, 2 the file cannot be read, 3 it could not serve.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := proxy.ReadConfig(file); err != nil {
				return cli.ExitWith(cli.ExitUsage, err)
			}
			return inPod(cmd.Context(), func(ctx context.Context) error {
				return proxy.RunFile(ctx, file, podLog.Logger(os.Stderr))
			})
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "file with the permissions and credentials of the build")
	return cmd
}
