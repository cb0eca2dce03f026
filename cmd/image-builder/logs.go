package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/client"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
)

func newLogsCommand() *cobra.Command {
	var req client.LogsRequest
	cmd := nodeCommand(&cobra.Command{
		Use: "logs ID|IMAGE", Short: "Show the log of a build", Args: cobra.ExactArgs(1),
		Long: "Shows the log of all attempts of a build, or of one attempt." + exitHelp,
	}, 0, func(ctx context.Context, c *call) error {
		req.Build = c.args[0]
		return c.ExplainBuild(req.Build, c.api.Logs(ctx, req, func(part client.Chunk) error {
			if _, err := c.out.Write(part.Content); err != nil {
				return cli.ExitWith(cli.ExitFailed, err)
			}
			return nil
		}))
	})
	f := cmd.Flags()
	f.BoolVarP(&req.Follow, "follow", "f", false, "continue until the build ends")
	f.Uint32Var(&req.Attempt, "attempt", 0, "show only this attempt")
	f.Int64Var(&req.Offset, "offset", 0, "begin at this byte of the attempt")
	return cmd
}
