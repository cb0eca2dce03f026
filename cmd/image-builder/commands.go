package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	"github.com/image-builder-ha/image-builder/cmd/image-builder/request"

	"github.com/spf13/cobra"

	"github.com/image-builder-ha/image-builder/client"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

// callTime bounds a call that answers at once.
const callTime = 30 * time.Second

// statuses is what every command's help says of its exit status.
const statuses = "\n\nExit status: 0 success, 2 wrong usage or no such thing, 3 the service is unavailable."

func newListCommand() *cobra.Command {
	var c cli.ClientFlags
	var phases, labels []string
	var requester, ref string
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List builds, newest first", Long: "Lists builds, newest first." + statuses, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			api, done, err := c.Dial()
			if err != nil {
				return err
			}
			defer done()
			f := &imagebuilderv1.BuildFilter{Requester: requester, Ref: ref}
			for _, p := range phases {
				v, err := cli.ParsePhase(p)
				if err != nil {
					return err
				}
				f.Phases = append(f.Phases, v)
			}
			if f.Labels, err = request.ParseLabels(labels); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), callTime)
			defer cancel()
			all := &imagebuilderv1.ListBuildsResponse{}
			for len(all.Builds) < limit {
				page, err := api.ListBuilds(ctx, &imagebuilderv1.ListBuildsRequest{
					Filter: f, PageSize: int32(min(limit-len(all.Builds), 1000)), PageToken: all.NextPageToken,
				})
				if err != nil {
					return c.Explain(err)
				}
				all.Builds = append(all.Builds, page.Builds...)
				if all.NextPageToken = page.NextPageToken; page.NextPageToken == "" {
					break
				}
			}
			return c.Print(cmd.OutOrStdout(), all, func(w io.Writer) {
				fmt.Fprintln(w, "BUILD\tPHASE\tAGE\tATTEMPTS\tREQUESTER\tIMAGE\tWAITS")
				for _, b := range all.Builds {
					fmt.Fprintf(w, "%s\t%s\t%s\t%d\t%s\t%s\t%s\n", b.Id, cli.PhaseName(b.Phase), cli.Age(b.CreatedAt), len(b.Attempts), b.Requester, b.Ref, b.WaitingReason)
				}
			})
		},
	}
	c.Register(cmd)
	cmd.Flags().StringSliceVar(&phases, "phase", nil, "only these phases")
	cmd.Flags().StringSliceVar(&labels, "label", nil, "only with these labels, key=value")
	cmd.Flags().StringVar(&requester, "requester", "", "only of this requester")
	cmd.Flags().StringVar(&ref, "ref", "", "only of this image")
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many")
	return cmd
}

func newStatusCommand() *cobra.Command {
	var c cli.ClientFlags
	var wait bool
	cmd := &cobra.Command{
		Use: "status ID|IMAGE", Short: "Show a build and its attempts", Args: cobra.ExactArgs(1),
		Long: "Shows a build and its attempts.\n\nExit status: 0 success, 1 with --wait: the build failed, 2 wrong usage or no such build, 3 the service is unavailable.",
		RunE: func(cmd *cobra.Command, args []string) error {
			api, done, err := c.Dial()
			if err != nil {
				return err
			}
			defer done()
			req := cli.StatusRequest(args[0])
			ctx, cancel := cmd.Context(), func() {}
			if wait {
				req.WaitFor = imagebuilderv1.Phase_PHASE_SUCCEEDED
			} else {
				ctx, cancel = context.WithTimeout(ctx, callTime)
			}
			defer cancel()
			res, err := api.BuildStatus(ctx, req)
			if err != nil {
				return c.ExplainBuild(args[0], err)
			}
			if err := c.Print(cmd.OutOrStdout(), res.Build, func(w io.Writer) { cli.BuildTable(w, res.Build) }); err != nil {
				return err
			}
			if wait && res.Build.Phase != imagebuilderv1.Phase_PHASE_SUCCEEDED {
				return cli.ExitWith(cli.ExitFailed, nil)
			}
			return nil
		},
	}
	c.Register(cmd)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the end of the build")
	return cmd
}

func newLogsCommand() *cobra.Command {
	var c cli.ClientFlags
	var follow bool
	var attempt uint32
	var offset int64
	cmd := &cobra.Command{
		Use: "logs ID|IMAGE", Short: "Show the log of a build", Args: cobra.ExactArgs(1),
		Long: "Shows the log of all attempts of a build, or of one." + statuses,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, done, err := c.Dial()
			if err != nil {
				return err
			}
			defer done()
			return c.ExplainBuild(args[0], printLogs(cmd.Context(), api, client.LogsRequest{Build: args[0], Attempt: attempt, Offset: offset, Follow: follow}, cmd.OutOrStdout()))
		},
	}
	c.Register(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the build ends")
	cmd.Flags().Uint32Var(&attempt, "attempt", 0, "only this attempt")
	cmd.Flags().Int64Var(&offset, "offset", 0, "begin at this byte of the attempt")
	return cmd
}

// printLogs writes the log of a build to out.
func printLogs(ctx context.Context, api *client.Client, req client.LogsRequest, out io.Writer) error {
	return api.Logs(ctx, req, func(c client.Chunk) error {
		if _, err := out.Write(c.Content); err != nil {
			return cli.ExitWith(cli.ExitFailed, err)
		}
		return nil
	})
}

func newCancelCommand() *cobra.Command {
	var c cli.ClientFlags
	var requester, reason string
	var operator bool
	cmd := &cobra.Command{
		Use: "cancel ID", Short: "Cancel a build", Args: cobra.ExactArgs(1),
		Long: `Takes your request back. The build stops if nobody else wants it; with --operator it
stops whoever wants it, which needs --server unix:///path/of/operator.sock.` + statuses,
		RunE: func(cmd *cobra.Command, args []string) error {
			api, done, err := c.Dial()
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := context.WithTimeout(cmd.Context(), callTime)
			defer cancel()
			res, err := api.CancelBuild(ctx, &imagebuilderv1.CancelBuildRequest{Id: args[0], Requester: requester, Reason: reason, Operator: operator})
			if err != nil {
				return c.ExplainBuild(args[0], err)
			}
			return c.Print(cmd.OutOrStdout(), res, func(w io.Writer) {
				switch {
				case res.DetachedOnly:
					fmt.Fprintln(w, "your request is taken back; the build goes on for others:", strings.Join(res.Build.Requesters, ", "))
				case res.Build.CancelRequested && res.Build.EndedAt == nil:
					fmt.Fprintln(w, "the build is being stopped")
				default:
					fmt.Fprintln(w, "the build is", cli.PhaseName(res.Build.Phase))
				}
			})
		},
	}
	c.Register(cmd)
	cmd.Flags().StringVar(&requester, "requester", request.DefaultRequester(), "whose request is taken back")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for others to read")
	cmd.Flags().BoolVar(&operator, "operator", false, "stop it for everybody")
	return cmd
}

func newResolveCommand() *cobra.Command {
	var c cli.ClientFlags
	var auth authFlags
	var platform string
	var workspace, explain bool
	var files []string
	cmd := &cobra.Command{
		Use: "resolve IMAGE", Short: "Resolve an image to its digest", Args: cobra.ExactArgs(1),
		Long: "Resolves an image to its digest, or with --workspace to the workspace image made from it.\n\n--explain tells which credential (by its name), mirror, requests, platform and cache rule give the answer." + asTheNode + statuses,
		RunE: func(cmd *cobra.Command, args []string) error {
			if explain {
				return explainRef(cmd.Context(), cmd.OutOrStdout(), &c, files, args[0], platform)
			}
			api, done, err := c.Dial()
			if err != nil {
				return err
			}
			defer done()
			a, err := auth.message()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 2*callTime)
			defer cancel()
			if workspace {
				res, err := api.ResolveWorkspaceImage(ctx, &imagebuilderv1.ResolveWorkspaceImageRequest{Source: request.RefSource(args[0]), Auth: a})
				if err != nil {
					return c.Explain(err)
				}
				return c.Print(cmd.OutOrStdout(), res, func(w io.Writer) {
					fmt.Fprintf(w, "%s\nbase %s, exists: %v\n", res.Ref, res.BaseRef, res.Exists)
				})
			}
			res, err := api.ResolveBaseImage(ctx, &imagebuilderv1.ResolveBaseImageRequest{Ref: args[0], Auth: a, Platform: platform})
			if err != nil {
				return c.Explain(err)
			}
			return c.Print(cmd.OutOrStdout(), res, func(w io.Writer) { fmt.Fprintln(w, res.Ref) })
		},
	}
	c.Register(cmd)
	auth.register(cmd)
	cmd.Flags().StringVar(&platform, "platform", "", "which platform of a multi-platform image; linux/amd64 if empty")
	cmd.Flags().BoolVar(&workspace, "workspace", false, "answer the workspace image instead")
	cmd.Flags().BoolVar(&explain, "explain", false, "tell how the answer comes about")
	cmd.Flags().StringSliceVar(&files, "config", nil, "with --explain: configuration files of the node; later ones win")
	return cmd
}
