package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/request"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func newCancelCommand() *cobra.Command {
	var req imagebuilderv1.CancelBuildRequest
	cmd := nodeCommand(&cobra.Command{
		Use: "cancel ID", Short: "Cancel a build", Args: cobra.ExactArgs(1),
		Long: `Withdraws your request for a build. The build stops unless there are other requesters.
With --operator it stops in any case; this needs --server unix:///path/of/operator.sock.` + exitHelp,
	}, callTimeout, func(ctx context.Context, c *call) error {
		req.Id = c.args[0]
		res, err := c.api.CancelBuild(ctx, &req)
		if err != nil {
			return c.ExplainBuild(req.Id, err)
		}
		return c.print(res, func(w io.Writer) { fmt.Fprintln(w, cancelResult(res)) })
	})
	f := cmd.Flags()
	f.StringVar(&req.Requester, "requester", request.DefaultRequester(), "name of the requester whose request is withdrawn")
	f.StringVar(&req.Reason, "reason", "", "reason, for the other requesters")
	f.BoolVar(&req.Operator, "operator", false, "stop the build for all requesters")
	return cmd
}

// cancelResult returns the effect of a cancellation as a sentence.
func cancelResult(res *imagebuilderv1.CancelBuildResponse) string {
	b := res.Build
	switch {
	case res.DetachedOnly:
		return "your request is withdrawn; the build continues for: " + strings.Join(b.Requesters, ", ")
	case b.CancelRequested && b.EndedAt == nil:
		return "the build is being stopped"
	case b.Phase == imagebuilderv1.Phase_PHASE_SUCCEEDED || b.Phase == imagebuilderv1.Phase_PHASE_FAILED:
		return "the build has already " + cli.PhaseName(b.Phase)
	}
	return "the build is " + cli.PhaseName(b.Phase)
}
