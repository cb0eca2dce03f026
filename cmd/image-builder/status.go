package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func newStatusCommand() *cobra.Command {
	var wait bool
	cmd := nodeCommand(&cobra.Command{
		Use: "status ID|IMAGE", Short: "Show a build and its attempts", Args: cobra.ExactArgs(1),
		Long: "Shows a build and its attempts.\n\nExit status: 0 success, 1 with --wait: the build failed or was cancelled, 2 wrong usage or not found, 3 the service is unavailable.",
	}, 0, func(ctx context.Context, c *call) error {
		req := cli.StatusRequest(c.args[0])
		if wait {
			req.WaitFor = imagebuilderv1.Phase_PHASE_SUCCEEDED
		} else {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, callTimeout)
			defer cancel()
		}
		res, err := c.api.BuildStatus(ctx, req)
		if err != nil {
			return c.ExplainBuild(c.args[0], err)
		}
		if err := c.print(res.Build, func(w io.Writer) { buildTable(w, res.Build) }); err != nil {
			return err
		}
		if wait && res.Build.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
			return cli.ExitWith(cli.ExitFailed, nil)
		}
		return nil
	})
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the end of the build")
	return cmd
}

// buildTable writes what is known about a build, one row for each attempt included.
func buildTable(w io.Writer, b *imagebuilderv1.Build) {
	row := func(k, v string) {
		if v != "" {
			fmt.Fprintf(w, "%s\t%s\n", k, v)
		}
	}
	row("build", b.Id)
	row("phase", cli.PhaseName(b.Phase))
	row("waiting", b.WaitingReason)
	row("image", b.Ref)
	row("digest", b.Digest)
	row("base", b.BaseRef)
	row("requesters", strings.Join(b.Requesters, ", "))
	row("created", cli.Age(b.CreatedAt)+" ago")
	if b.EndedAt != nil {
		row("ended", cli.Age(b.EndedAt)+" ago")
	}
	if b.Blame != 0 {
		row("blame", cli.BlameName(b.Blame))
	}
	row("message", b.Message)
	for _, a := range b.Attempts {
		var phases []string
		for _, h := range a.History {
			phases = append(phases, fmt.Sprintf("%s +%s", cli.PhaseName(h.Phase), h.At.AsTime().Sub(a.StartedAt.AsTime()).Round(time.Millisecond)))
		}
		row(fmt.Sprintf("attempt %d", a.Number), fmt.Sprintf("on %s, epoch %d, %s: %s", a.Owner, a.Epoch, a.Runtime, strings.Join(phases, ", ")))
		row("", a.Message)
	}
}
