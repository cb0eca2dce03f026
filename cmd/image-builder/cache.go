package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/image-builder-ha/image-builder/cmd/image-builder/cli"
	imagebuilderv1 "github.com/image-builder-ha/image-builder/proto/imagebuilder/v1"
)

func newCacheCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "cache", Short: "List and change the cached references",
		Long: `Lists and changes the references that the cluster keeps resolved. Changes need
--server unix:///path/of/operator.sock.` + exitHelp,
	}
	cmd.AddCommand(newCacheListCommand(), newCacheAddCommand(), newCacheRemoveCommand(), newCacheRefreshCommand(), newCacheIntervalCommand())
	return cmd
}

// cacheCommand is a command whose long help is its short one.
func cacheCommand(use, short string, args cobra.PositionalArgs, run func(context.Context, *call) error) *cobra.Command {
	return callCommand(&cobra.Command{Use: use, Short: short, Long: short + "." + exitHelp, Args: args}, run)
}

func newCacheListCommand() *cobra.Command {
	return cacheCommand("list", "List cached references", cobra.NoArgs, func(ctx context.Context, c *call) error {
		res, err := c.api.ListCachedRefs(ctx, &imagebuilderv1.ListCachedRefsRequest{})
		if err != nil {
			return err
		}
		return c.print(res, func(w io.Writer) { cacheTable(w, res, time.Now()) })
	})
}

// cacheTable writes a row for each reference. The age of a digest grows while the reference cannot
// be refreshed; the error is in the same row.
func cacheTable(w io.Writer, res *imagebuilderv1.ListCachedRefsResponse, now time.Time) {
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
			next = "in progress on " + r.RefreshingBy
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

func newCacheAddCommand() *cobra.Command {
	var interval time.Duration
	cmd := cacheCommand("add IMAGE", "Add a reference to the cache", cobra.ExactArgs(1), func(ctx context.Context, c *call) error {
		req := &imagebuilderv1.PutCachedRefRequest{Ref: c.args[0]}
		if interval > 0 {
			req.Interval = durationpb.New(interval)
		}
		res, err := c.api.PutCachedRef(ctx, req)
		if err != nil {
			return err
		}
		return c.print(res, func(w io.Writer) { fmt.Fprintln(w, "added", res.Ref.Ref) })
	})
	cmd.Flags().DurationVar(&interval, "interval", 0, "how often the reference is resolved again; the default of the cluster if 0")
	return cmd
}

func newCacheRemoveCommand() *cobra.Command {
	return cacheCommand("remove IMAGE", "Remove a reference from the cache", cobra.ExactArgs(1), func(ctx context.Context, c *call) error {
		res, err := c.api.DeleteCachedRef(ctx, &imagebuilderv1.DeleteCachedRefRequest{Ref: c.args[0]})
		if err != nil {
			return err
		}
		return c.print(res, func(w io.Writer) {
			fmt.Fprintln(w, map[bool]string{true: "removed", false: "was not cached"}[res.Existed])
		})
	})
}

func newCacheRefreshCommand() *cobra.Command {
	return cacheCommand("refresh [IMAGE...]", "Resolve references again now; all references if none is named", cobra.ArbitraryArgs, func(ctx context.Context, c *call) error {
		res, err := c.api.RefreshCachedRefs(ctx, &imagebuilderv1.RefreshCachedRefsRequest{Refs: c.args})
		if err != nil {
			return err
		}
		return c.print(res, func(w io.Writer) { fmt.Fprintf(w, "references to refresh: %d\n", res.Refs) })
	})
}

func newCacheIntervalCommand() *cobra.Command {
	return cacheCommand("set-interval INTERVAL [IMAGE]", "Change the interval of one reference, or the default of the cluster", cobra.RangeArgs(1, 2), func(ctx context.Context, c *call) error {
		req := new(imagebuilderv1.SetCacheIntervalRequest)
		if len(c.args) == 2 {
			req.Ref = c.args[1]
		}
		if len(c.args) == 1 || c.args[0] != "default" {
			d, err := time.ParseDuration(c.args[0])
			if err != nil {
				return cli.ExitWith(cli.ExitUsage, fmt.Errorf("%q is not a duration; write it like 30m or 6h, or 'default' for an image", c.args[0]))
			}
			req.Interval = durationpb.New(d)
		}
		res, err := c.api.SetCacheInterval(ctx, req)
		if err != nil {
			return err
		}
		return c.print(res, func(w io.Writer) { fmt.Fprintln(w, "changed") })
	})
}
