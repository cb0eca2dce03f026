package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func newCacheCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "cache", Short: "The references that are kept resolved",
		Long: "Lists and changes the references that are kept resolved. Changes need --server unix:///path/of/operator.sock." + statuses,
	}
	cmd.AddCommand(newCacheList(), newCacheAdd(), newCacheRemove(), newCacheRefresh(), newCacheInterval())
	return cmd
}

func newCacheList() *cobra.Command {
	return cacheCommand("list", "List cached references", cobra.NoArgs, func(ctx context.Context, api imagebuilderv1.ImageBuilderClient, c *cli.ClientFlags, w io.Writer, _ []string) error {
		res, err := api.ListCachedRefs(ctx, &imagebuilderv1.ListCachedRefsRequest{})
		if err != nil {
			return err
		}
		return c.Print(w, res, func(w io.Writer) { printCache(w, res, time.Now()) })
	})
}

// printCache shows ages as they are: a digest that could not be refreshed grows
// older, and the reason stands beside it.
func printCache(w io.Writer, res *imagebuilderv1.ListCachedRefsResponse, now time.Time) {
	fmt.Fprintln(w, "IMAGE\tEVERY\tDIGEST\tAGE\tNEXT\tERROR")
	for _, r := range res.Refs {
		every := r.Interval.AsDuration().String()
		if r.Interval.AsDuration() == 0 {
			every = res.DefaultInterval.AsDuration().String() + " (default)"
		}
		digest := r.Digest
		if digest == "" {
			digest = "-"
		}
		next := "now"
		switch {
		case r.RefreshingBy != "":
			next = "at work on " + r.RefreshingBy
		case r.DueAt != nil && r.DueAt.AsTime().After(now):
			next = "in " + r.DueAt.AsTime().Sub(now).Round(time.Second).String()
		}
		problem := r.LastError
		if r.Failures > 1 {
			problem = fmt.Sprintf("%s (%d times)", problem, r.Failures)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Ref, every, digest, cli.Age(r.RefreshedAt), next, problem)
	}
}

func newCacheAdd() *cobra.Command {
	var interval time.Duration
	cmd := cacheCommand("add IMAGE", "Keep a reference resolved", cobra.ExactArgs(1), func(ctx context.Context, api imagebuilderv1.ImageBuilderClient, c *cli.ClientFlags, w io.Writer, args []string) error {
		req := &imagebuilderv1.PutCachedRefRequest{Ref: args[0]}
		if interval > 0 {
			req.Interval = durationpb.New(interval)
		}
		res, err := api.PutCachedRef(ctx, req)
		if err != nil {
			return err
		}
		return c.Print(w, res, func(w io.Writer) { fmt.Fprintln(w, "added", res.Ref.Ref) })
	})
	cmd.Flags().DurationVar(&interval, "interval", 0, "how often it is resolved again; the default of the cluster if not given")
	return cmd
}

func newCacheRemove() *cobra.Command {
	return cacheCommand("remove IMAGE", "Forget a reference", cobra.ExactArgs(1), func(ctx context.Context, api imagebuilderv1.ImageBuilderClient, c *cli.ClientFlags, w io.Writer, args []string) error {
		res, err := api.DeleteCachedRef(ctx, &imagebuilderv1.DeleteCachedRefRequest{Ref: args[0]})
		if err != nil {
			return err
		}
		return c.Print(w, res, func(w io.Writer) {
			fmt.Fprintln(w, map[bool]string{true: "removed", false: "was not cached"}[res.Existed])
		})
	})
}

func newCacheRefresh() *cobra.Command {
	return cacheCommand("refresh [IMAGE...]", "Resolve references anew, now; all if none is named", cobra.ArbitraryArgs, func(ctx context.Context, api imagebuilderv1.ImageBuilderClient, c *cli.ClientFlags, w io.Writer, args []string) error {
		res, err := api.RefreshCachedRefs(ctx, &imagebuilderv1.RefreshCachedRefsRequest{Refs: args})
		if err != nil {
			return err
		}
		return c.Print(w, res, func(w io.Writer) { fmt.Fprintf(w, "references to be resolved anew: %d\n", res.Refs) })
	})
}

func newCacheInterval() *cobra.Command {
	return cacheCommand("set-interval INTERVAL [IMAGE]", "Change how often one reference, or those without an interval of their own, are resolved again",
		cobra.RangeArgs(1, 2), func(ctx context.Context, api imagebuilderv1.ImageBuilderClient, c *cli.ClientFlags, w io.Writer, args []string) error {
			req := new(imagebuilderv1.SetCacheIntervalRequest)
			if len(args) == 2 {
				req.Ref = args[1]
			}
			if len(args) == 1 || args[0] != "default" {
				d, err := time.ParseDuration(args[0])
				if err != nil {
					return cli.ExitWith(cli.ExitUsage, fmt.Errorf("%q is no duration; write it like 30m or 6h, or 'default' for an image", args[0]))
				}
				req.Interval = durationpb.New(d)
			}
			res, err := api.SetCacheInterval(ctx, req)
			if err != nil {
				return err
			}
			return c.Print(w, res, func(w io.Writer) { fmt.Fprintln(w, "changed") })
		})
}

func cacheCommand(use, short string, args cobra.PositionalArgs, run func(context.Context, imagebuilderv1.ImageBuilderClient, *cli.ClientFlags, io.Writer, []string) error) *cobra.Command {
	var c cli.ClientFlags
	cmd := &cobra.Command{
		Use: use, Short: short, Long: short + "." + statuses, Args: args,
		RunE: func(cmd *cobra.Command, a []string) error {
			api, done, err := c.Dial()
			if err != nil {
				return err
			}
			defer done()
			ctx, cancel := context.WithTimeout(cmd.Context(), callTime)
			defer cancel()
			return c.Explain(run(ctx, api, &c, cmd.OutOrStdout(), a))
		},
	}
	c.Register(cmd)
	return cmd
}
