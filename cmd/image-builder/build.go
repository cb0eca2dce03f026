package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/follow"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/request"
)

func newBuildCommand() *cobra.Command {
	var flags cli.Flags
	var auth request.AuthFlags
	var build request.Flags
	var o follow.Options
	cmd := &cobra.Command{
		Use: "build [CONTEXT] | --ref IMAGE", Short: "Build an image and follow the build", Args: cobra.MaximumNArgs(1),
		Long: `Builds an image and follows the build until it ends. On a terminal it shows the steps while
they run. Elsewhere it writes the log to standard output and the phases to standard error.
The last line of standard output is the image with its digest. With --output json or yaml,
standard output ends with the build in that format instead. With --detach the command prints
the id of the build and does not wait; if the image exists already, it prints the image.
Ctrl-C ends the command and not the build.

CONTEXT is a directory with a Dockerfile, the URL of a git repository (http or https), or '-'
for a tar archive on standard input, which may be gzipped. #REF or #REF:FOLDER at the end of
a URL selects a branch, tag or commit, and a folder. With --ref the command builds the
workspace image of an existing image instead.

Exit status: 0 success, 1 the build failed or was cancelled, 2 wrong usage,
3 the service is unavailable, 130 interrupted.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if (build.Ref == "") == (len(args) == 0) {
				return cli.ExitWith(cli.ExitUsage, errors.New("name either a context, such as '.', or an image with --ref"))
			}
			if o.Progress != "auto" && o.Progress != "plain" && o.Progress != "json" {
				return cli.ExitWith(cli.ExitUsage, fmt.Errorf("--progress %q is unknown; use auto, plain or json", o.Progress))
			}
			return withNode(cmd, args, &flags, 0, func(ctx context.Context, c *call) error {
				ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
				defer stop()
				req, err := build.Request(ctx, c.api, args, cmd.InOrStdin())
				if err != nil {
					return c.Explain(err)
				}
				if req.Auth, err = auth.Auth(); err != nil {
					return err
				}
				o.Out, o.ErrOut = cmd.OutOrStdout(), cmd.ErrOrStderr()
				return follow.Build(ctx, c.api, c.Flags, req, o)
			})
		},
	}
	flags.Register(cmd)
	auth.Register(cmd)
	build.Register(cmd)
	cmd.Flags().BoolVar(&o.Detach, "detach", false, "print the id of the build and do not follow it")
	cmd.Flags().StringVar(&o.Progress, "progress", "auto", "auto: live steps on a terminal, else the log; plain: the log; json: the build as one line at each change of its phase")
	return cmd
}
